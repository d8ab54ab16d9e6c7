"""Two namespaces with a router between them, and the link role there as a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from pyroute2 import IPRoute, netns

from testbed.lab.network import in_namespace
from testbed.link.state import State, read_state

CLONE_NEWNET = 0x40000000
ENTER = f"""
import ctypes, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
assert ctypes.CDLL(None, use_errno=True).setns(fd, {CLONE_NEWNET}) == 0, "setns"
os.close(fd)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
QUEUE_BYTES = 30_000
MBIT = 10**6


def inside(name: str, *arguments: str) -> list[str]:
    """The command that runs this Python in a namespace."""
    return [sys.executable, "-c", ENTER, f"/var/run/netns/{name}", *arguments]


class Wire:
    """device — router — server, one veth pair a side, addresses 10.77.<side>.<1 router, 2 host>."""

    def __init__(self) -> None:
        self.names = {who: f"lnk{os.getpid()}-{who}" for who in ("device", "router", "server")}

    def up(self) -> None:
        for name in self.names.values():
            netns.create(name)
        for side, who in enumerate(("device", "server")):
            with IPRoute(netns=self.names["router"], flags=0) as ipr:
                peer = {"ifname": "data", "net_ns_fd": self.names[who]}
                ipr.link("add", ifname=f"to-{who}", kind="veth", peer=peer)
                self._address(ipr, f"to-{who}", f"10.77.{side}.1")
            with IPRoute(netns=self.names[who], flags=0) as ipr:
                self._address(ipr, "data", f"10.77.{side}.2")
                # A veth hands super-packets on whole, where a real cable carries packets.
                ipr.link("set", index=ipr.link_lookup(ifname="data")[0], gso_max_segs=1)
                ipr.route("add", dst="default", gateway=f"10.77.{side}.1")
        forward = "from pathlib import Path; Path('/proc/sys/net/ipv4/ip_forward').write_text('1')"
        subprocess.run(inside(self.names["router"], "-c", forward), check=True)

    @staticmethod
    def _address(ipr: IPRoute, interface: str, address: str) -> None:
        index = ipr.link_lookup(ifname=interface)[0]
        ipr.addr("add", index=index, address=address, prefixlen=24)
        ipr.link("set", index=index, state="up")

    def down(self) -> None:
        existing = set(netns.listnetns())
        for name in self.names.values():
            if name in existing:
                netns.remove(name)

    def state(self, who: str, interface: str) -> dict[str, Any]:
        """The canonical state as JSON has it, read without the role."""

        def read() -> State:
            with IPRoute() as ipr:
                return read_state(ipr, interface, ipr.link_lookup(ifname=interface)[0])

        return json.loads(json.dumps(in_namespace(self.names[who], read)))

    def socket(self, who: str, kind: socket.SocketKind) -> socket.socket:
        made = in_namespace(self.names[who], lambda: socket.socket(socket.AF_INET, kind))
        made.settimeout(5)
        return made


class Role:
    """The role's process and the orchestrator's end of its protocol."""

    def __init__(self, namespace: str) -> None:
        environ = {k: v for k, v in os.environ.items() if k != "SSH_CONNECTION"}
        self.process = subprocess.Popen(
            inside(namespace, "-m", "testbed.link"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
        )
        self.records: list[dict[str, Any]] = []
        self.hello = self.expect("hello")

    def send(self, kind: str, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"type": kind, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def expect(self, kind: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if message["type"] == kind:
                return message
            assert message["type"] == "record", message
            self.records.append(message["record"])
        raise AssertionError(f"the role ended before it said {kind}")

    def expect_record(self) -> None:
        assert self.process.stdout is not None
        message = json.loads(self.process.stdout.readline())
        assert message["type"] == "record", message
        self.records.append(message["record"])

    def ask(self, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        self.send(kind, **fields)
        return self.expect(answer)

    def shape(self, *interfaces: str, rate_bps: int = 10 * MBIT) -> dict[str, Any]:
        directions = {
            name: {"interface": interface, "rate_bps": rate_bps, "queue_bytes": QUEUE_BYTES}
            for name, interface in zip(("uplink", "downlink"), interfaces, strict=False)
        }
        return self.ask("setup", "ready", directions=directions)

    def start(self, **schedules: dict[str, Any]) -> dict[str, Any]:
        return self.ask("start", "started", run_id="r", schedules=schedules)

    def end(self) -> int:
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        return self.process.wait(timeout=20)

    def close(self) -> None:
        self.end()
        assert self.process.stdout is not None
        self.process.stdout.close()


def constant(rate_bps: int) -> dict[str, Any]:
    return {"changes": [[0, rate_bps]], "duration_ns": 10**9, "end": "hold"}
