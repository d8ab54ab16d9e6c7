"""Split equals whole, over the wire and on every device, before anything is measured."""

from __future__ import annotations

import secrets
from typing import Any

from testbed.encodings import Encoding, parse_features, parse_input
from testbed.errors import TestbedError
from testbed.model.table import OFFLOAD
from testbed.orchestrator.session import START_TIMEOUT_S, STOP_TIMEOUT_S, Session

# Largest difference of a logit, as a share of the largest logit: from arithmetic alone (another
# CPU, GPU or thread count), and with features rounded to 11 bits.
_TOLERANCE, _TOLERANCE_ROUNDED = 1e-4, 2e-2


def verify(session: Session) -> dict[str, Any]:
    """Prove *split equals whole* over the wire for every candidate; returns ``verify.json``.

    ``splits`` are the findings of the first device, ``devices`` those of each, where there are
    several. Raises TestbedError naming the splits where bytes or results differ beyond the
    encoding's tolerance.
    """
    token = secrets.token_hex(16)
    server = session.roles["server"]
    start = {"type": "start", "run_id": "verify", "token": token}
    server.request(start, "started", timeout_s=START_TIMEOUT_S)
    server.send({"type": "go"})
    message = {
        "type": "verify",
        "server": session.server_endpoint(token),
        "congestion_control": None,
    }
    found: dict[str, Any] = {}
    try:
        for role, host in session.device_roles.items():
            answer = session.roles[role].request(message, "verified", session.patience_s())
            found[host] = answer["splits"]
    finally:
        server.stop()
        server.wait("done", timeout_s=STOP_TIMEOUT_S)
    for host, splits in found.items():
        _refuse_wrong(session, host, splits)
    first = next(iter(found.values()))
    return {"splits": first, **({"devices": found} if len(found) > 1 else {})}


def _refuse_wrong(session: Session, host: str, splits: dict[str, Any]) -> None:
    encoding = session.experiment.encoding
    codes = {split: parse_features(encoding.features) for split in splits}
    if OFFLOAD in codes:
        codes[OFFLOAD] = parse_input(encoding.input)
    wrong = [
        f"{split} (max difference {f['max_abs']:.3g}, same top-1: {f['top1']}, "
        f"bytes as sent: {f['digest']})"
        for split, f in splits.items()
        if not _agrees(f, codes[split])
    ]
    if wrong:
        raise TestbedError(
            f"split equals whole: {host}: expected the whole model's result, got another at "
            f"{wrong}; do the hosts have the same torch?"
        )


def _agrees(found: dict[str, Any], code: Encoding) -> bool:
    """Whether a result is within the encoding's tolerance; a coarse one's loss is only told."""
    if not found["digest"]:
        return False
    if code.coarse:
        return True
    tolerance = _TOLERANCE if code.lossless else _TOLERANCE_ROUNDED
    near = found["equal"] or found["max_abs"] <= tolerance * found["largest"]
    return bool(near and found["top1"])
