"""A lab that is up: real SSH, a routed data path, CPU limits; and nothing left when it is down."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from pyroute2 import IPRoute

from testbed.config import Inventory, load_inventory
from testbed.errors import HostError, UserError
from testbed.lab import Lab, down, down_all, shell, status
from testbed.lab.network import create, in_namespace
from testbed.lab.network import remove as remove_network
from testbed.lab.processes import end_all, inside, namespace_id

pytestmark = pytest.mark.lab
INVENTORY = load_inventory(Path(__file__).parents[2] / "inventory" / "local.yaml")
OTHER = INVENTORY.hosts["server"].model_copy(update={"python": "python3"})
INVENTORY = INVENTORY.model_copy(update={"hosts": {**INVENTORY.hosts, "server": OTHER}})
NETNS = Path("/run/netns")


@pytest.fixture(scope="module", autouse=True)
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("labs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_RUN_DIR", str(root))
        yield root


@pytest.fixture(scope="module")
def lab(run_root: Path) -> Iterator[Lab]:
    with Lab.up(INVENTORY) as up:
        yield up


def connect(lab: Lab, host: str, key: Path | None = None) -> paramiko.SSHClient:
    at = lab.inventory.hosts[host]
    client = paramiko.SSHClient()
    client.load_host_keys(str(at.known_hosts))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    assert at.address is not None
    client.connect(
        at.address,
        at.port,
        at.user,
        key_filename=str(key or at.key),
        allow_agent=False,
        look_for_keys=False,
        timeout=10,
    )
    return client


def traces(lab_id: str) -> list[str]:
    """All of a lab that the machine still has."""
    mark = f"tb-{lab_id}-"
    with IPRoute() as ip:
        found = [f"link {link.get('ifname')}" for link in ip.get_links()]
    found += [f"namespace {path.name}" for path in NETNS.iterdir()]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob("**/tb-*")]
    return [name for name in found if mark in name]


@pytest.mark.parametrize("host", ["device", "router", "server"])
def test_ssh_works_with_the_keys_given_and_lands_in_the_namespace(lab: Lab, host: str) -> None:
    client = connect(lab, host)
    try:
        _, out, _ = client.exec_command("echo $HOME; readlink /proc/self/ns/net", timeout=10)
        home, namespace = out.read().decode().split()
    finally:
        client.close()
    assert home == str(lab.run_dir / "hosts" / host)
    inode = (NETNS / f"tb-{lab.lab_id}-{host}").stat().st_ino
    assert namespace == f"net:[{inode}]"


def test_a_host_has_the_python_that_is_written_for_it_or_ours(lab: Lab) -> None:
    pythons = {name: host.python for name, host in lab.inventory.hosts.items()}
    assert pythons == {"device": sys.executable, "router": sys.executable, "server": "python3"}


def test_ssh_refuses_another_key(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    with pytest.raises(paramiko.AuthenticationException):
        connect(lab, "device", other)


def test_sshd_listens_on_the_management_side_only(lab: Lab) -> None:
    data = lab.inventory.hosts["server"].data
    assert data is not None
    address = (str(data.address), lab.inventory.hosts["server"].port)

    def knock() -> None:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)

    in_namespace(f"tb-{lab.lab_id}-device", knock)


def test_the_device_reaches_the_server_over_the_router(lab: Lab) -> None:
    data = lab.inventory.hosts["server"].data
    assert data is not None
    server = in_namespace(
        f"tb-{lab.lab_id}-server", lambda: socket.create_server((str(data.address), 0))
    )
    before = forwarded(lab)
    with server:
        client = in_namespace(
            f"tb-{lab.lab_id}-device",
            lambda: socket.create_connection(server.getsockname(), timeout=5),
        )
        peer, address = server.accept()
        with client, peer:
            peer.sendall(b"over the router")
            assert client.recv(100) == b"over the router"
    device = lab.inventory.hosts["device"].data
    assert device is not None
    assert address[0] == str(device.address)
    assert forwarded(lab) >= before + 4  # the handshake, the data and its acknowledgement


def forwarded(lab: Lab) -> int:
    """Packets that the router has passed on."""
    snmp = in_namespace(
        f"tb-{lab.lab_id}-router", lambda: Path("/proc/thread-self/net/snmp").read_text()
    )
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


def test_status_and_shell_know_the_lab(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    (told,) = status()
    assert told["lab_id"] == lab.lab_id
    assert set(told["hosts"]) == {"device", "router", "server"}
    assert all(host["sshd_alive"] for host in told["hosts"].values())
    assert shell("device", None, ["sh", "-c", "echo at $HOME; exit 3"]) == 3
    assert capfd.readouterr().out == f"at {lab.run_dir}/hosts/device\n"
    with pytest.raises(UserError, match="no host laptop"):
        shell("laptop")
    with pytest.raises(UserError, match="cannot run no-such-program"):
        shell("device", lab.lab_id, ["no-such-program"])


BUSY = """
import sys, time
sys.stdin.readline()
wall, cpu = time.monotonic(), time.process_time()
while time.monotonic() < wall + 0.5: pass
print((time.process_time() - cpu) / (time.monotonic() - wall))
"""


def test_a_cpu_share_limits_and_other_hosts_processes_are_refused(lab: Lab) -> None:
    if "no limit" in (lab.limits["device"] or ""):
        pytest.skip(f"no CPU limits on this machine: {lab.limits['device']}")
    process = in_namespace(
        f"tb-{lab.lab_id}-device",
        lambda: subprocess.Popen(
            [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ),
    )
    with process:
        assert lab.limit("device", [process.pid]) == lab.limits["device"]
        out, _ = process.communicate(b"go\n", timeout=30)
    assert 0.05 < float(out) < 0.45  # a share of 0.25 on a shared machine
    with pytest.raises(HostError, match="not of this host"):
        lab.limit("device", [os.getpid()])


def test_two_labs_live_side_by_side_and_one_goes_alone(lab: Lab) -> None:
    with Lab.up(INVENTORY, lab_id="second") as other:
        addresses = {str(host.address) for host in lab.inventory.hosts.values()}
        assert addresses.isdisjoint(str(host.address) for host in other.inventory.hosts.values())
        connect(other, "server").close()
        with pytest.raises(UserError, match="exists already"):
            Lab.up(INVENTORY, lab_id="second")
        connect(other, "device").close()  # the refusal did not harm it
    assert traces("second") == []
    connect(lab, "server").close()


def test_without_a_router_device_and_server_are_joined() -> None:
    hosts = {"edge": {"roles": ["device", "link"]}, "big": {"roles": ["server", "load"]}}
    two = Inventory.model_validate({"lab": "local", "hosts": hosts})
    with Lab.up(two, lab_id="two") as lab:  # up only once the data path has answered
        assert set(lab.inventory.hosts) == {"edge", "big"}
        assert all(host.data and not host.router for host in lab.inventory.hosts.values())
        assert lab.limits == {"edge": None, "big": None}
    assert traces("two") == []


def test_down_leaves_nothing_and_is_idempotent(run_root: Path) -> None:
    others = set(run_root.iterdir())
    lab = Lab.up(INVENTORY)
    assert len(traces(lab.lab_id)) > 6
    namespaces = {namespace_id(NETNS / f"tb-{lab.lab_id}-{host}") for host in INVENTORY.hosts}
    assert len(inside({one for one in namespaces if one})) == 3
    lab.down()
    lab.down()
    assert traces(lab.lab_id) == []
    assert inside({one for one in namespaces if one}) == []
    assert set(run_root.iterdir()) == others
    with pytest.raises(UserError, match="no such lab"):
        down(lab.lab_id)


def test_a_command_that_outlives_its_listener_is_found_and_ended(run_root: Path) -> None:
    lab = Lab.up(INVENTORY, lab_id="orphan")
    client = connect(lab, "device")
    _, out, _ = client.exec_command("echo $$; trap '' TERM HUP; exec sleep 600 < /dev/null")
    pid = int(out.readline())
    (listener,) = [
        one["hosts"]["device"]["sshd_pid"] for one in status() if one["lab_id"] == "orphan"
    ]
    os.kill(listener, signal.SIGKILL)
    lab.down()
    client.close()
    assert not Path(f"/proc/{pid}/ns/net").exists()
    assert traces("orphan") == []


def test_a_lab_that_fails_half_way_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_root: Path
) -> None:
    others = set(run_root.iterdir())
    broken = tmp_path / "sshd"
    broken.write_text("#!/bin/sh\necho bad luck >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(HostError, match=r"device: sshd ended with status 3: bad luck"):
        Lab.up(INVENTORY, lab_id="broken")
    assert traces("broken") == []
    assert set(run_root.iterdir()) == others


def test_real_hosts_are_no_lab() -> None:
    real = Inventory.model_construct(lab=None, hosts=INVENTORY.hosts)
    with pytest.raises(UserError, match="lab: local"):
        Lab.up(real)


def test_foreign_namespaces_and_processes_survive(
    run_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_RUN_DIR", str(tmp_path))
    name = f"tb-none-{os.getpid()}"  # named like ours, but in no journal
    create(name)
    try:
        with in_namespace(name, lambda: subprocess.Popen(["sleep", "600"])) as process:
            lab = Lab.up(INVENTORY, lab_id="mine")
            assert any("tb-mine-" in removed for removed in down_all())
            lab.down()  # has nothing left to remove
            assert process.poll() is None
            assert (NETNS / name).exists()
            process.terminate()
    finally:
        identity = namespace_id(NETNS / name)
        end_all({identity} if identity else set())
        remove_network([name], [])
