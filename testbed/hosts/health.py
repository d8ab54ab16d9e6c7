"""How fit a host is for measuring right now: what disturbs it, and whether its links will do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.config import Host
from testbed.framing import MTU_BYTES
from testbed.hosts.clock import ClockOffset
from testbed.hosts.connection import Connection
from testbed.hosts.environment import Environment
from testbed.hosts.preflight import Finding

SAMPLE_S = 1.0
BUSY_SHARE, STEAL_SHARE = 0.25, 0.05
CLOCK_BOUND_NS = 1_000_000
CELSIUS = 85.0
SPEED_FACTOR = 1.2
STEADY_GOVERNORS = ("performance", "userspace", None)  # None: the kernel does not scale


@dataclass(frozen=True)
class Health:
    """A host over one second; None where it does not say."""

    links: dict[str, dict[str, Any] | None]
    busy_share: float
    steal_share: float
    throttled: int | None
    board_throttled: str | None
    celsius: float | None
    bind_fault: str | None


def interfaces_of(host: Host) -> list[str]:
    """The interfaces of the data path that the inventory names."""
    named = [host.data.interface] if host.data else []
    return named + ([host.router.to_device, host.router.to_server] if host.router else [])


def read_health(connection: Connection) -> Health:
    """Watch the host for a second; raises HostError."""
    host = connection.host
    bind = None
    if host.data is not None and "server" in host.roles:
        bind = [str(host.data.address), host.data.port]
    asked = {"interfaces": interfaces_of(host), "bind": bind, "sample_s": SAMPLE_S}
    return Health(**json.loads(connection.script("health", json.dumps(asked))))


def judge_health(
    name: str, host: Host, facts: Environment, health: Health, highest_bps: int | None
) -> Iterator[Finding]:
    """The findings; ``highest_bps`` is the highest rate that an experiment asks for, if any."""
    for interface, link in health.links.items():
        if link is not None:  # a missing one is the preflight's finding
            yield _link(name, interface, link, highest_bps)
    yield _governor(name, facts)
    yield _heat(name, health)
    yield _share(name, "background load", health.busy_share, BUSY_SHARE, "end what runs there")
    remedy = "give the virtual machine CPUs of its own; runs so disturbed are marked"
    yield _share(name, "steal", health.steal_share, STEAL_SHARE, remedy)
    if host.data is not None and "server" in host.roles:
        yield _port(name, host, health)


def _link(name: str, interface: str, link: Mapping[str, Any], highest_bps: int | None) -> Finding:
    check = f"interface {interface}"
    on = [feature for feature, is_on in link["offloads"].items() if is_on]
    speed = link["speed_mbps"]
    text = (
        f"{link['state']}, MTU {link['mtu']}, {f'{speed} Mbit/s' if speed else 'speed unknown'}, "
        f"offloads on: {', '.join(on) or 'none'} (off while shaped)"
    )
    if link["state"] == "down":
        return Finding(name, check, "fail", text, f"ip link set {interface} up; is a cable in?")
    if speed and highest_bps and speed * 10**6 < SPEED_FACTOR * highest_bps:
        remedy = "lower the trace's rates or use a faster network"
        wanted = f"; {SPEED_FACTOR} times the highest rate is {highest_bps / 1e6:.0f} Mbit/s"
        return Finding(name, check, "fail", text + wanted, remedy)
    if link["mtu"] != MTU_BYTES:
        remedy = f"ip link set {interface} mtu {MTU_BYTES}: rates are computed for full packets"
        return Finding(name, check, "warn", text, remedy)
    return Finding(name, check, "pass", text)


def _governor(name: str, facts: Environment) -> Finding:
    if facts.governor in STEADY_GOVERNORS:
        return Finding(name, "CPU governor", "pass", facts.governor or "no frequency scaling")
    remedy = "for steady figures: cpupower frequency-set -g performance"
    return Finding(name, "CPU governor", "warn", facts.governor or "", remedy)


def _heat(name: str, health: Health) -> Finding:
    told = []
    if health.celsius is not None:
        told.append(f"{health.celsius:.0f} °C")
    if health.throttled is not None:
        told.append(f"slowed down {health.throttled} times in {SAMPLE_S:g} s")
    if health.board_throttled is not None:
        told.append(f"get_throttled {health.board_throttled}")
    bad = (
        (health.celsius or 0) > CELSIUS
        or bool(health.throttled)
        or int(health.board_throttled or "0", 16) & 0xF  # the low bits say now, the others ever
    )
    text = ", ".join(told) or "the host does not say"
    if bad:
        return Finding(name, "throttling", "warn", text, "cool it, and see to its power supply")
    return Finding(name, "throttling", "pass", text)


def _share(name: str, check: str, share: float, bound: float, remedy: str) -> Finding:
    if share <= bound:
        return Finding(name, check, "pass", f"{share:.0%} of CPU time")
    return Finding(name, check, "warn", f"{share:.0%} of CPU time (bound {bound:.0%})", remedy)


def _port(name: str, host: Host, health: Health) -> Finding:
    assert host.data is not None
    port = host.data.port
    place = f"{host.data.address} port {port or 'any'}"
    if health.bind_fault is None:
        return Finding(name, "data port", "pass", f"{place} is free")
    remedy = f"end what listens there (ss -tlnp), or change hosts.{name}.data.port"
    return Finding(name, "data port", "fail", f"{place}: {health.bind_fault}", remedy)


def judge_clock(name: str, clock: ClockOffset) -> Finding:
    """Whether one-way times can be told apart to within a millisecond."""
    text = f"offset known to within ±{clock.bound_ns / 1e6:.2f} ms"
    if clock.bound_ns <= CLOCK_BOUND_NS:
        return Finding(name, "clock", "pass", text)
    remedy = "one-way times will be as vague; use a wired management network"
    return Finding(name, "clock", "warn", text, remedy)


def judge_modules(
    name: str, tried: Mapping[str, bool | None], needs_netem: bool
) -> Iterator[Finding]:
    """What the kernel can shape; netem is a must only where the experiment needs it."""
    remedies = {
        "htb": "modprobe sch_htb cls_u32, or install the kernel's extra modules",
        "netem": "modprobe sch_netem, or install the kernel's extra modules (Debian: "
        "linux-image without -cloud); the virtual lab's router can bring its own kernel",
        "ifb": "modprobe ifb; needed only where a receiver's ingress is shaped",
        "mirred": "modprobe act_mirred sch_ingress; needed only where ingress is shaped",
    }
    for module, there in tried.items():
        if there:
            yield Finding(name, f"kernel {module}", "pass", "made in a scratch namespace")
            continue
        must = module == "htb" or (module == "netem" and needs_netem)
        text = "cannot be tried without root" if there is None else "this kernel has none"
        yield Finding(name, f"kernel {module}", "fail" if must else "warn", text, remedies[module])
