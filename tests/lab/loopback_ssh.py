"""A real sshd on loopback, and an echo role to start over it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from testbed.config import Host
from testbed.hosts.connection import Connection
from testbed.hosts.role import RoleProcess

ECHO_ROLE = """
import os, signal, sys
from testbed.control import Control, claim_stdio, serve
from testbed.errors import TestbedError, UserError

print("a start-up file that prints", flush=True)
control = Control(*claim_stdio())

class Echo:
    stubborn = False
    def hello(self):
        return {"malloc": os.environ.get("MALLOC_TRIM_THRESHOLD_"), "cwd": os.getcwd()}
    def handle(self, message):
        kind = message["type"]
        if kind == "echo":
            control.send("echoed", text=message["text"])
        elif kind == "flood":
            for n in range(message["n"]):
                control.record("queries", {"query": n, "padding": "x" * 300})
                if n % 5 == 0:
                    print("noise " * 60, file=sys.stderr)
            control.send("done", queries=message["n"])
        elif kind == "run":
            control.send("started")
            control.stopping.wait()
            control.send("done")
        elif kind == "user":
            raise UserError("no such split")
        elif kind == "bug":
            raise KeyError("what")
        elif kind == "garbage":
            os.write(control._sink.fileno(), b"not json\\n")
        elif kind == "stubborn":
            self.stubborn = True
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            control.send("ok")
        elif kind == "crash":
            print("the last words", file=sys.stderr, flush=True)
            os._exit(3)
    def close(self):
        print("put back", file=sys.stderr, flush=True)
        while self.stubborn:
            signal.pause()

sys.exit(serve("device", control, Echo()))
"""


class Sshd:
    """An sshd of our own on loopback, with its own keys and files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("host", "client", "stranger"):
            self.key(name)
        shutil.copy(folder / "client.pub", folder / "authorized_keys")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.home = folder / "home"
        self.home.mkdir()
        self.write_config()
        self.known(folder / "host.pub")
        self.log = (folder / "sshd.log").open("wb")
        program = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ["PATH"])
        assert program is not None
        self.process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(folder / "config")], stderr=self.log
        )

    def key(self, name: str) -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(argv, check=True)
        return path

    def write_config(self) -> None:
        root = next(x for x in Path("/etc/shadow").read_text().splitlines() if x[:5] == "root:")
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.folder / "host",
            "AuthorizedKeysFile": self.folder / "authorized_keys",
            "PidFile": "none",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            # Without PAM sshd refuses a root whose password is locked.
            "UsePAM": "yes" if root.split(":")[1].startswith("!") else "no",
            "SetEnv": f"HOME={self.home}",
        }
        lines = [f"{key} {value}" for key, value in settings.items()]
        (self.folder / "config").write_text("\n".join(lines) + "\n")

    def known(self, public: Path) -> None:
        line = f"[127.0.0.1]:{self.port} {public.read_text()}"
        (self.folder / "known_hosts").write_text(line)

    def await_banner(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
                    assert sock.recv(4) == b"SSH-"
                    return
            except ConnectionRefusedError:
                time.sleep(0.02)  # the pace of asking; the banner is the signal
        raise AssertionError("sshd is not ready")

    def host(self, **changes: Any) -> Host:
        written = {
            "roles": ["device"],
            "address": "127.0.0.1",
            "port": self.port,
            "key": self.folder / "client",
            "known_hosts": self.folder / "known_hosts",
            "python": sys.executable,
        }
        return Host.model_validate({**written, **changes})

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


class Started:
    """A role with what it has recorded."""

    def __init__(self, connection: Connection, deployed: str, log: Path) -> None:
        self.records: list[dict[str, Any]] = []
        self.log = log
        self.role = RoleProcess.start(connection, "device", deployed, log=log, on_record=self.keep)

    def keep(self, role: str, file: str, record: dict[str, Any]) -> None:
        assert (role, file) == ("device", "queries")
        self.records.append(record)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
