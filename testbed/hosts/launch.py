"""The constant command line that starts a role."""

from __future__ import annotations

from testbed.config import Host

MODULES = {
    "device": ("testbed.worker", "device"),
    "server": ("testbed.worker", "server"),
    "load": ("testbed.worker", "load"),
    "build": ("testbed.worker", "build"),
    "link": ("testbed.link",),
    "prober": ("testbed.link.prober",),
}

# glibc gives activations back to the kernel after each query and takes them again, a page fault a
# page: with these it keeps them (thousands of faults a query become none).
STEADY_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
}


def role_environment(role: str, host: Host) -> dict[str, str]:
    """What a role finds in its environment; the inventory's own settings come last."""
    if role in ("link", "prober"):
        return dict(host.environment)
    threads = {name: str(host.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**STEADY_MALLOC, **threads, **host.environment}


def command_line(role: str, host: Host, deployed: str, sudo: bool) -> list[str]:
    """The role's argv; all else it hears is JSON on its stdin."""
    return _python(host, deployed, role_environment(role, host), MODULES[role], sudo)


def module_command(host: Host, deployed: str, *module: str) -> list[str]:
    """The argv of a module that is no role: it prints one JSON line and ends."""
    return _python(host, deployed, dict(host.environment), module, host.sudo)


def _python(
    host: Host, deployed: str, environment: dict[str, str], module: tuple[str, ...], sudo: bool
) -> list[str]:
    # The host's own search path stays behind ours: a person's own networks may lie there.
    search = filter(None, (deployed, environment.get("PYTHONPATH")))
    settings = {**environment, "PYTHONPATH": ":".join(search)}
    if sudo:  # else root would leave byte code in the user's cache folder
        settings["PYTHONDONTWRITEBYTECODE"] = "1"
    assigned = [f"{name}={value}" for name, value in settings.items()]
    # -C: "python -m" looks into the working directory first, and the home folder holds anything.
    command = ["env", "-C", deployed, *assigned, host.python, "-m", *module]
    return ["sudo", "-n", *command] if sudo else command
