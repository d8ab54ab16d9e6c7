"""A real OpenSSH server for each host, inside its namespace, with files of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import HostError, UserError
from testbed.lab.layout import SSH_PORT, Seat
from testbed.lab.network import in_namespace

_READY_S = 15.0
_PACE_S = 0.01
_INSTALL = "install it (Debian, Ubuntu: apt-get install openssh-server)"

# StrictModes looks at every parent directory, and the run directory is private already.
# PAM is used only where a locked root needs it: its sessions cost time.
# HOME gives each host a cache folder of its own and spares the login shell's start-up files.
_CONFIG = """\
ListenAddress {address}:{port}
HostKey {home}/host_key
PidFile none
AuthorizedKeysFile {keys}/authorized_keys
StrictModes no
AuthenticationMethods publickey
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowUsers root
UsePAM {pam}
UseDNS no
X11Forwarding no
PrintMotd no
PermitUserRC no
MaxSessions 64
Subsystem sftp internal-sftp
SetEnv {settings}
"""


@dataclass(frozen=True)
class Tools:
    """Where OpenSSH's programs are."""

    sshd: str
    keygen: str


@dataclass(frozen=True)
class Listener:
    """A started sshd and what is needed to tell how it fares."""

    seat: Seat
    process: subprocess.Popen[bytes]
    log: Path
    patience_s: float = _READY_S


def find_tools() -> Tools:
    """Find sshd and ssh-keygen; raises UserError with the remedy if one is missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"  # not in every user's PATH
    sshd, keygen = shutil.which("sshd", path=path), shutil.which("ssh-keygen", path=path)
    if sshd is None:
        raise UserError(f"lab: sshd is missing and each host of the lab runs one; {_INSTALL}")
    if keygen is None:
        raise UserError(f"lab: ssh-keygen is missing and the lab's keys need it; {_INSTALL}")
    return Tools(sshd, keygen)


def make_files(
    tools: Tools, run_dir: Path, seats: tuple[Seat, ...], settings: Mapping[str, Mapping[str, str]]
) -> None:
    """Write fresh keys, ``authorized_keys``, ``known_hosts`` and each host's configuration.

    ``settings``: host to what its sessions find in their environment beside HOME.
    """
    _keygen(tools, run_dir / "client_key")
    shutil.copy(run_dir / "client_key.pub", run_dir / "authorized_keys")
    pam = "yes" if root_is_locked(Path("/etc/shadow")) else "no"
    known = []
    for seat in seats:
        home = home_of(run_dir, seat.host)
        home.mkdir(mode=0o700, parents=True)
        _keygen(tools, home / "host_key")
        address = seat.management.address.ip
        kind, key = (home / "host_key.pub").read_text().split()[:2]
        known.append(f"[{address}]:{SSH_PORT} {kind} {key}\n")
        session = {"HOME": str(home), **settings.get(seat.host, {})}
        text = _CONFIG.format(
            address=address,
            port=SSH_PORT,
            home=home,
            keys=run_dir,
            pam=pam,
            settings=" ".join(f"{name}={value}" for name, value in session.items()),
        )
        (home / "sshd_config").write_text(text)
    (run_dir / "known_hosts").write_text("".join(known))


def start(tools: Tools, run_dir: Path, seat: Seat) -> Listener:
    """Start the host's sshd in its namespace and in a session of its own; it is not ready yet."""
    # sshd refuses to start without its separation directory, which a boot service makes. It is
    # left behind: an sshd of the machine, started later, may have come to rely on it.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    home = home_of(run_dir, seat.host)
    log = home / "sshd.log"
    with log.open("wb") as stream:
        process = in_namespace(
            seat.namespace,
            lambda: subprocess.Popen(
                [tools.sshd, "-D", "-e", "-f", str(home / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
            ),
        )
    return Listener(seat, process, log)


def wait_ready(listener: Listener) -> None:
    """Return once sshd sends its banner; raises HostError if it ends or stays silent.

    One connection that shows no key costs less than newer OpenSSH's ``PerSourcePenalties``
    enforces, so the wait ends with the first banner.
    """
    address = (str(listener.seat.management.address.ip), SSH_PORT)
    deadline = time.monotonic() + listener.patience_s
    while not _banner(address):
        try:
            listener.process.wait(_PACE_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            raise HostError(
                listener.seat.host,
                f"sshd sent no banner in {listener.patience_s:.0f} s: {_last_line(listener.log)}",
            ) from None
        raise HostError(
            listener.seat.host,
            f"sshd ended with status {listener.process.returncode}: {_last_line(listener.log)}",
        )


def home_of(run_dir: Path, host: str) -> Path:
    """The host's home directory inside the lab's run directory."""
    return run_dir / "hosts" / host


def root_is_locked(shadow: Path) -> bool:
    """Whether root's password is locked (``!``): without PAM sshd then refuses its keys too."""
    try:
        lines = shadow.read_text().splitlines()
    except FileNotFoundError:
        return False
    return any(line.startswith("root:!") for line in lines)


def _keygen(tools: Tools, path: Path) -> None:
    command = [tools.keygen, "-q", "-t", "ed25519", "-N", "", "-C", "testbed lab", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _banner(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=1.0) as connection:
            return connection.recv(8).startswith(b"SSH-2.0-")
    except OSError:
        return False


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
