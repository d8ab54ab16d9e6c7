"""Segmentation and receive offloads of an interface: off while it is shaped, then as before.

With them on, "packets" of 16–64 kB pass the queue: a limit in packets means nothing and the bucket
is overdrawn by a super-packet at a time. The old ethtool flags cannot restore exactly (one flag
``tso`` stands for four features), so this uses the kernel's single features, through the ethtool
ioctl: it works on every kernel in the field, and needs no ethtool on the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyroute2.ethtool.ioctl import IoctlEthtool, NotSupportedError

from testbed.errors import TestbedError

# Names of the kernel's net/ethtool/common.c (netdev_features_strings).
FEATURES = (
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-accecn-segmentation",
    "tx-generic-segmentation",
    "tx-udp-segmentation",
    "rx-gro",
    "rx-gro-hw",
    "rx-gro-list",
    "rx-udp-gro-forwarding",
    "rx-lro",
)

Offloads = dict[str, dict[str, bool]]


def read_offloads(interface: str) -> Offloads:
    """``{feature: {"active", "wanted"}}`` of every offload here that this interface can change."""
    ioctl = IoctlEthtool(interface)
    try:
        features = ioctl.get_features()
        return {
            name: {"active": features.is_active(name), "wanted": features.is_requested(name)}
            for name in FEATURES
            if name in features
            and features.is_available(name)
            and not features.is_never_changed(name)
        }
    finally:
        ioctl.close()


def set_features(interface: str, wanted: Mapping[str, bool]) -> None:
    """Ask for features on or off; what came of it is for the caller to read back."""
    ioctl = IoctlEthtool(interface)
    try:
        features = ioctl.get_features()
        for name, value in wanted.items():
            features[name] = value
        ioctl.set_features(features)
    except NotSupportedError:
        # Also how pyroute2 reads the kernel's "some wishes wait for another feature" (a positive
        # return value): what is wanted and active now is read back by the callers.
        pass
    finally:
        ioctl.close()


def turn_off(interface: str, before: Offloads) -> Offloads:
    """Turn off every offload that was on; what is there then. Raises TestbedError."""
    set_features(interface, {name: False for name, is_on in before.items() if any(is_on.values())})
    after = read_offloads(interface)
    if still := _names(after, (name for name in after if after[name]["active"])):
        raise TestbedError(
            f"{interface}: offloads {still} stay on although turned off; the queue would hold "
            "super-packets: shape another interface"
        )
    return after


def restore(interface: str, before: Offloads) -> None:
    """Want again what was wanted before; raises TestbedError where the result differs."""
    now = read_offloads(interface)
    wanted = {name: was["wanted"] for name, was in before.items()}
    set_features(interface, {n: w for n, w in wanted.items() if now[n]["wanted"] != w})
    after = read_offloads(interface)
    if differing := _names(after, (name for name in before if after[name] != before[name])):
        raise TestbedError(
            f"{interface}: offloads {differing} are not as they were before shaping; set them "
            f"with ethtool -K {interface}"
        )


def _names(offloads: Offloads, chosen: Iterable[str]) -> str:
    return ", ".join(name for name in chosen if name in offloads)
