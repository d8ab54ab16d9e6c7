"""Connection, deployment and roles over a real sshd on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import GroupError, HostError, UserError
from testbed.hosts import role as role_module
from testbed.hosts.clock import measure_offset
from testbed.hosts.connection import Connection, connect_all
from testbed.hosts.deploy import build_archive, deploy, send_artefact
from testbed.hosts.environment import read_environment
from testbed.hosts.role import RoleProcess
from testbed.records import sha256_file
from tests.lab.loopback_ssh import ECHO_ROLE, Sshd, Started, alive

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def sshd(tmp_path_factory) -> Iterator[Sshd]:
    privilege_separation = Path("/run/sshd")
    ours = not privilege_separation.exists()
    privilege_separation.mkdir(mode=0o755, exist_ok=True)
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    try:
        server.await_banner()
        yield server
    finally:
        server.close()
        if ours:
            privilege_separation.rmdir()


@pytest.fixture(scope="module")
def connection(sshd) -> Iterator[Connection]:
    with Connection("pi", sshd.host()) as opened:
        yield opened


@pytest.fixture(scope="module")
def deployed(sshd) -> str:
    """What is deployed, with an echo role in the place of the worker."""
    folder = sshd.folder / "deployed"
    folder.mkdir()
    (sshd.folder / "code.tar.gz").write_bytes(build_archive(False))
    shutil.unpack_archive(sshd.folder / "code.tar.gz", folder, filter="data")
    (folder / "testbed" / "worker" / "__main__.py").write_text(ECHO_ROLE)
    return str(folder)


@pytest.fixture
def started(connection, deployed, tmp_path) -> Iterator[Started]:
    echo = Started(connection, deployed, tmp_path / "device.log")
    with echo.role:
        yield echo


def test_command_gets_its_words_input_and_status(connection) -> None:
    awkward = "a 'b' $HOME; \"c\" *"
    done = connection.run(["sh", "-c", 'cat; echo "$1" >&2; exit 7', "sh", awkward], input=b"in")
    assert (done.status, done.stdout, done.stderr.decode()) == (7, b"in", awkward + "\n")


def test_large_input_and_output_pass_each_other(connection) -> None:
    data = os.urandom(8_000_000)
    assert connection.run(["cat"], input=data).stdout == data


def test_command_without_end_is_given_up(connection) -> None:
    with pytest.raises(HostError, match=r"pi: yes: no end within 0\.2 s"):
        connection.run(["yes"], timeout_s=0.2)


def test_put_and_get(connection, tmp_path) -> None:
    path = connection.put(b"\0some bytes", str(tmp_path / "new folder" / "it's"))
    assert connection.get(path) == b"\0some bytes"
    with pytest.raises(HostError, match="No such file"):
        connection.get(str(tmp_path / "absent"))


def test_missing_python_says_which_key_to_set(sshd) -> None:
    with (
        Connection("pi", sshd.host(python="python9")) as opened,
        pytest.raises(HostError, match=r"no 'python9' there.*hosts\.pi\.python"),
    ):
        read_environment(opened)


def test_host_key_unknown_and_changed(sshd, tmp_path) -> None:
    known = tmp_path / "known_hosts"
    host = sshd.host(known_hosts=known)
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.folder / "host.pub")], capture_output=True, text=True
    ).stdout.split()[1]
    with pytest.raises(HostError, match="unknown host key") as unknown:
        Connection("pi", host)
    assert fingerprint in str(unknown.value)
    assert f"ssh-keyscan -p {sshd.port}" in str(unknown.value)
    known.write_text(f"[127.0.0.1]:{sshd.port} {(sshd.folder / 'stranger.pub').read_text()}")
    with pytest.raises(HostError, match="host key has CHANGED") as changed:
        Connection("pi", host)
    assert str(changed.value).count("SHA256:") == 2
    assert fingerprint in str(changed.value)


def test_refused_key_and_closed_port(sshd) -> None:
    with pytest.raises(HostError, match=r"does not accept .*stranger; try: ssh-copy-id"):
        Connection("pi", sshd.host(key=sshd.folder / "stranger"))
    with pytest.raises(HostError, match="no such key file"):
        Connection("pi", sshd.host(key=sshd.folder / "nowhere"))
    with pytest.raises(HostError, match=r"no SSH connection: .*refused"):
        Connection("pi", sshd.host(port=1))


def test_jump_host(sshd) -> None:
    jump = {"address": "127.0.0.1", "port": sshd.port, "user": "root"}
    host = sshd.host(jump={**jump, "key": sshd.folder / "client"})
    with Connection("far", host) as opened:
        assert opened.run(["echo", "through"]).stdout == b"through\n"


def test_several_hosts_keep_every_outcome(sshd) -> None:
    hosts = {"good": sshd.host(), "bad": sshd.host(port=1)}
    with pytest.raises(GroupError) as group, connect_all(hosts):
        pass
    assert group.value.outcomes["good"] is None
    assert isinstance(group.value.outcomes["bad"], HostError)
    with connect_all({"a": sshd.host(), "b": sshd.host()}) as both:
        assert {c.run(["echo", n]).stdout for n, c in both.items()} == {b"a\n", b"b\n"}


def test_deploy_sends_once_and_stays_in_the_cache_folder(sshd, connection, tmp_path) -> None:
    before = {path.name for path in sshd.home.iterdir()}
    path = Path(deploy(connection, ["device", "link"]))
    assert path.parent == sshd.home / ".cache" / "testbed" / "code"
    assert (path / "pyroute2" / "__init__.py").is_file()
    assert {entry.name for entry in sshd.home.iterdir()} - before <= {".cache"}
    (path / "mark").write_text("the folder of the first time")
    assert deploy(connection, ["link"]) == str(path)
    assert (path / "mark").is_file()

    model = tmp_path / "model.archive"
    model.write_bytes(os.urandom(1_000_000))
    sent: list[tuple[int, int]] = []
    for _ in range(2):
        there = send_artefact(
            connection, model, sha256_file(model), lambda done, total: sent.append((done, total))
        )
        assert sha256_file(Path(there)) == sha256_file(model) == Path(there).stem
    assert sent.count((1_000_000, 1_000_000)) == 1


def test_environment_over_ssh(connection) -> None:
    facts = read_environment(connection, pid=os.getpid())
    assert facts.ssh_interfaces == ["lo"]
    assert facts.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_role_greets_and_answers(started, deployed) -> None:
    assert started.role.hello["cwd"] == deployed
    assert started.role.hello["malloc"] == "4294967296"
    reply = started.role.request({"type": "echo", "text": "ä\n"}, "echoed", 5)
    assert reply["text"] == "ä\n"
    started.role.request({"type": "run"}, "started", 5)
    started.role.stop()
    started.role.wait("done", 5)
    with pytest.raises(HostError, match=r"pi: device: no 'never' within 0\.05 s"):
        started.role.wait("never", 0.05)


def test_role_floods_both_outputs_and_no_line_is_lost(started) -> None:
    started.role.request({"type": "flood", "n": 20_000}, "done", 60)
    assert [record["query"] for record in started.records] == list(range(20_000))
    started.role.close()
    assert started.log.read_text().count("noise " * 60) == 4_000


def test_end_of_stdin_ends_the_role(started) -> None:
    pid = started.role.hello["pid"]
    started.role.close()
    started.role.close()
    assert not alive(pid)
    assert "put back" in started.log.read_text()
    with pytest.raises(HostError, match="ended by exit status 0"):
        started.role.check()


def test_role_errors_by_who_can_mend_them(started) -> None:
    with pytest.raises(UserError, match="pi: device: no such split"):
        started.role.request({"type": "user"}, "done", 5)
    with pytest.raises(HostError, match="pi: device: KeyError: 'what'"):
        started.role.request({"type": "bug"}, "done", 5)
    started.role.request({"type": "echo", "text": ""}, "echoed", 5)
    assert "Traceback" in started.log.read_text()


def test_crash_tells_status_and_last_words(started) -> None:
    started.role.check()
    with pytest.raises(HostError, match=r"ended by exit status 3; .*the last words"):
        started.role.request({"type": "crash"}, "done", 5)
    started.role.close()
    with pytest.raises(HostError, match="ended by exit status 3"):
        started.role.send({"type": "echo", "text": ""})


def test_line_that_is_no_message_is_a_fault(started) -> None:
    with pytest.raises(HostError, match="expected a message, got b'not json'"):
        started.role.request({"type": "garbage"}, "done", 5)


def test_record_that_cannot_be_kept_is_a_fault(connection, deployed, tmp_path) -> None:
    def full(role: str, file: str, record: dict[str, Any]) -> None:
        raise OSError("no space left")

    started = RoleProcess.start(
        connection, "device", deployed, log=tmp_path / "log", on_record=full
    )
    with started, pytest.raises(HostError, match="could not be kept: OSError: no space left"):
        started.request({"type": "flood", "n": 1}, "never", 5)


def test_stubborn_role_is_killed_by_pid(started, monkeypatch) -> None:
    monkeypatch.setattr(role_module, "CLOSE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(role_module, "SIGNAL_TIMEOUT_S", 0.5)
    started.role.request({"type": "stubborn"}, "ok", 5)
    pid = started.role.hello["pid"]
    started.role.close()
    assert not alive(pid)
    assert f"kill -KILL {pid}" in started.log.read_text()


def test_role_that_cannot_start_says_why(connection, tmp_path) -> None:
    # As on a host without torch, whatever the Python of this machine has installed.
    (tmp_path / "testbed").mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'torch'\")\n"
    (tmp_path / "testbed" / "__init__.py").write_text(missing)
    with pytest.raises(HostError, match=r"ended by exit status 1; .*No module named"):
        Started(connection, str(tmp_path), tmp_path / "log")


def test_broken_connection_wakes_the_waiter(sshd, deployed, tmp_path) -> None:
    opened = Connection("pi", sshd.host())
    echo = Started(opened, deployed, tmp_path / "log")
    threading.Timer(0.1, opened.close).start()
    with pytest.raises(HostError, match="a signal or a lost connection"):
        echo.role.request({"type": "run"}, "done", 10)
    echo.role.close()


def test_clock_of_the_same_machine_is_our_own(started) -> None:
    offset = measure_offset(started.role)
    assert offset.n == 60
    assert abs(offset.offset_ns) <= offset.bound_ns
