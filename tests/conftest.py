"""Decides once whether the lab tests can run here, and says so when they cannot."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


def missing_for_lab() -> str | None:
    """Why the lab tests cannot run on this machine, or None."""
    if os.geteuid() != 0:
        return "not root (run: sudo make test)"
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    if not effective >> CAP_NET_ADMIN & 1 or not effective >> CAP_SYS_ADMIN & 1:
        return "no CAP_NET_ADMIN and CAP_SYS_ADMIN in this container"
    if shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
        return "sshd is missing (Debian: apt-get install openssh-server)"
    return None


def pytest_configure() -> None:
    # A shell's background job ignores Ctrl-C, and so would every process that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing_for_lab()
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason=f"lab tests left out: {reason}"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and item.get_closest_marker("lab") and os.environ.get("TESTBED_REQUIRE_LAB"):
        report.outcome = "failed"
        report.longrepr = f"TESTBED_REQUIRE_LAB is set, yet: {report.longrepr}"
