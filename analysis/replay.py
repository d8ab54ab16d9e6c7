"""The rates that were set, and the least time that a payload needed under them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.dataset import Dataset, Run
from testbed.framing import LINK_FRAME_BYTES, MTU_BYTES, burst_bytes, ip_bytes

Floats = NDArray[np.float64]
_FOREVER_S = 1e6
# What transfer_ns needs of a query.
TIMED = ["send_s", "bytes_up", "bytes_down", "server_wait_ns", "decode_ns", "tail_ns"]


@dataclass(frozen=True)
class RateSteps:
    """A rate that holds from each time (seconds on the run's axis) until the next."""

    t_s: Floats
    bps: Floats

    def at(self, t_s: Floats) -> Floats:
        """The rate set at each time; before the first change the first rate."""
        return self.bps[self.place(t_s)]

    def place(self, t_s: Floats) -> NDArray[np.intp]:
        """Which of the rates was set at each time."""
        return np.maximum(np.searchsorted(self.t_s, t_s, side="right") - 1, 0)

    def finish_s(self, start_s: Floats, bits: Floats) -> Floats:
        """When each amount is through, if it starts at ``start_s`` and has the link alone."""
        knots = np.concatenate([[-_FOREVER_S], self.t_s[1:], [self.t_s[-1] + _FOREVER_S]])
        carried = np.concatenate([[0.0], np.cumsum(np.diff(knots) * self.bps)])
        done = np.interp(start_s, knots, carried) + bits
        return np.asarray(np.interp(done, carried, knots))


def rate_steps(data: Dataset, run: Run, side: str) -> RateSteps:
    """A direction's rates as applied in one run; as planned where no change was logged."""
    schedule = run.schedules[side]
    planned = np.asarray(schedule["changes"], dtype=float).reshape(-1, 2)
    logged = data.changes_of.get((run.run_id, side))
    if logged is not None:
        t_s, bps = logged["t_s"].to_numpy(), logged["rate_bps"].to_numpy()
        first_s = min(-1.0, t_s[0] - 1.0)
        return RateSteps(np.concatenate([[first_s], t_s]), np.concatenate([[planned[0, 1]], bps]))
    laps = 1
    if schedule["end"] == "loop" and schedule["duration_ns"]:
        laps = int(run.duration_s * 1e9 // schedule["duration_ns"]) + 2
    offsets_ns = np.repeat(np.arange(laps) * float(schedule["duration_ns"]), len(planned))
    times_s = (np.tile(planned[:, 0], laps) + offsets_ns) / 1e9
    return RateSteps(times_s, np.tile(planned[:, 1], laps))


def of_each_device(queries: pd.DataFrame) -> Iterator[tuple[str, str, NDArray[np.intp]]]:
    """Each run, each device in it, and the places of that device's queries."""
    for run_id, places in queries.groupby("run_id", observed=True).indices.items():
        devices = queries["device"].iloc[places]
        for device in devices.unique():
            yield str(run_id), str(device), places[(devices == device).to_numpy()]


def own_steps(data: Dataset, run: Run, device: str) -> tuple[RateSteps, RateSteps]:
    """Uplink and downlink of a device in one run."""
    up, down = run.uplink_of(device), run.downlink_of(device)
    return rate_steps(data, run, up), rate_steps(data, run, down)


def wire_bits(payload_bytes: Floats, rate_bps: Floats) -> Floats:
    """IP bits beyond the burst, as ``testbed.framing.serialisation_ns`` counts them."""
    # A run has few sizes and rates, each met many times.
    sizes, of_size = np.unique(payload_bytes, return_inverse=True)
    rates, of_rate = np.unique(rate_bps, return_inverse=True)
    sent = np.array([ip_bytes(int(size)) for size in sizes], dtype=float)
    burst = [burst_bytes(rate) * MTU_BYTES // LINK_FRAME_BYTES for rate in rates]
    beyond = sent[of_size] - np.array(burst, dtype=float)[of_rate]
    return np.asarray(np.maximum(0.0, beyond) * 8)


def transfer_ns(
    queries: pd.DataFrame, up: RateSteps, down: RateSteps, up_factor: Floats | float = 1.0
) -> Floats:
    """Least network time of each query under the set rates, without propagation.

    ``(IP bytes − burst) / rate``, the rate integrated over its steps from the moment the payload is
    encoded, then the same for the reply after the server's work.

    Args:
        queries: rows of one run with ``send_s``, sizes and server times.
        up: the uplink's rates.
        down: the downlink's rates.
        up_factor: scales the uplink payload, to ask what another encoding would have cost.
    """
    sent = queries["send_s"].to_numpy(dtype=float)
    size_up = queries["bytes_up"].to_numpy(dtype=float) * up_factor
    arrived = up.finish_s(sent, wire_bits(size_up, up.at(sent)))
    served = ("server_wait_ns", "decode_ns", "tail_ns")
    residence_ns = sum(np.nan_to_num(queries[name].to_numpy(dtype=float)) for name in served)
    replied = arrived + residence_ns / 1e9
    size_down = queries["bytes_down"].to_numpy(dtype=float)
    back = down.finish_s(replied, wire_bits(size_down, down.at(replied)))
    return np.asarray((arrived - sent + back - replied) * 1e9)


def with_floor(data: Dataset) -> pd.DataFrame:
    """The queries with ``up_bps`` set at the start, ``transfer_ns`` and ``floor_ns``.

    Floor: ``head + (wire bytes − burst)/rate + propagation + tail``, the least time physics allows.
    """
    queries = data.queries
    needed = queries[["t_s", *TIMED]]
    runs = {run.run_id: run for run in data.runs}
    up_bps, least_ns, delay_ns = (np.full(len(queries), np.nan) for _ in range(3))
    for run_id, device, places in of_each_device(queries):
        run = runs[run_id]
        rows = needed.iloc[places]
        up, down = own_steps(data, run, device)
        remote = (rows["bytes_up"] > 0).to_numpy()
        up_bps[places] = up.at(rows["t_s"].to_numpy(dtype=float))
        # In an outage even nothing would wait for the link's return.
        least_ns[places] = transfer_ns(rows, up, down) * remote
        delay_ns[places] = remote * data.delay_ns(run, device)
    work_ns = queries["head_ns"] + queries["tail_ns"].fillna(0)
    floor_ns = work_ns + least_ns + delay_ns
    return queries.assign(up_bps=up_bps, transfer_ns=least_ns, floor_ns=floor_ns)
