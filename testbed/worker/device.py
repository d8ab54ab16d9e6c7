"""The device role: makes the inputs, runs the heads, asks the policy, measures."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import torch

from testbed.control import Control, Message
from testbed.errors import TestbedError, UserError
from testbed.model.table import LOCAL, SplitTable
from testbed.policy.agent import Agent, ProbeRule
from testbed.policy.clairvoyant import Oracle
from testbed.policy.latency import candidates_from_profile
from testbed.policy.policies import make_policy
from testbed.policy.protocol import Policy
from testbed.policy.user import Source
from testbed.worker import heap
from testbed.worker.agreement import Comparison
from testbed.worker.appraise import appraise
from testbed.worker.arrivals import ArrivalRule
from testbed.worker.client import Connection, Endpoint
from testbed.worker.encoding import Decoder, Encoder
from testbed.worker.equipment import Equipment, Rules
from testbed.worker.host import (
    Usage,
    build_engine,
    greeting,
    resident_bytes,
)
from testbed.worker.inputs import real_inputs, seeded_inputs
from testbed.worker.layout import layouts
from testbed.worker.loop import Loop
from testbed.worker.server_link import ServerLink
from testbed.worker.wire import MAX_PROBE_BYTES, WireError

# Verifying is not measuring: a slow link may take its time.
_VERIFY_TIMEOUT_NS = 60_000_000_000


class DeviceRole:
    """One device for a campaign; each ``start`` begins from a fresh connection and policy."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._equipment: Equipment | None = None
        self._link: ServerLink | None = None
        self._loop: Loop | None = None
        self._duration_ns = 0

    def hello(self) -> Message:
        """Versions and facts sent with the greeting."""
        return greeting()

    def handle(self, message: Message) -> None:
        """Act on ``setup``, ``verify``, ``appraise``, ``start`` or ``go``."""
        if message["type"] == "setup":
            self._setup(message)
        elif message["type"] == "verify":
            self._verify(self._ready(), message)
        elif message["type"] == "appraise":
            kit = self._ready()
            pictures = (kit.inputs, kit.labels) if kit.real else None
            found = appraise(kit.engine, pictures=pictures, **message["asked"])
            self._control.send("appraised", encodings=found)
        elif message["type"] == "start":
            self._start(self._ready(), message)
        elif message["type"] == "go":
            self._go()
        else:
            raise UserError(f"device: unknown message {message['type']!r}")

    def close(self) -> None:
        """Drop the connection of a run in progress."""
        if self._link is not None:
            self._link.close()
        self._link = self._loop = None

    def _ready(self) -> Equipment:
        if self._equipment is None:
            raise UserError("device: not set up; send setup first")
        return self._equipment

    def _setup(self, message: Message) -> None:
        self.close()
        if self._equipment is not None:
            self._equipment = None  # one that fails leaves none, not the one before
            heap.release()
        table = SplitTable.from_json(message["table"])
        batch, candidates = message["batch"], tuple(message["candidates"])
        known = layouts(table, candidates, message["encoding"], batch)
        engine, told = build_engine(message, table, candidates)
        pictures = message.get("pictures")
        if pictures is not None:
            inputs, labels = real_inputs(pictures, batch)
        else:
            seed, count = message["input_seed"], message["inputs"]
            inputs, labels = seeded_inputs(table, batch=batch, seed=seed, count=count), None
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            inputs = tuple(x.pin_memory() for x in inputs)
        self._equipment = Equipment(
            engine=engine,
            layouts=known,
            candidates=candidates,
            encoder=Encoder(known),
            decoder=Decoder(known.values()),
            inputs=inputs,
            labels=labels,
            real=pictures is not None,
            batch=batch,
            outputs=batch * table.outputs,
        )
        check = engine.check(inputs[0])
        heap.settle()
        self._control.send(
            "ready",
            archive_sha256=message["archive_sha256"],
            check=check,
            rss_bytes=resident_bytes(),
            torch=torch.__version__,
            **told,
        )

    def _verify(self, kit: Equipment, message: Message) -> None:
        endpoint = _endpoint(message, _VERIFY_TIMEOUT_NS)
        found = {}
        coarse = any(layout.code.coarse for layout in kit.layouts.values())
        # One query proves equality; how much an encoding loses is a matter of samples.
        inputs = kit.inputs if coarse else kit.inputs[:1]
        whole = [kit.engine.whole(x) for x in inputs]
        with _unreachable_is_told(endpoint), closing(Connection(endpoint, kit.outputs)) as link:
            for number, (split, layout) in enumerate(kit.layouts.items()):
                comparison = Comparison()
                count = len(inputs) if layout.code.coarse else 1
                for x, expected in zip(inputs[:count], whole, strict=False):
                    payload = kit.encoder.encode(split, kit.engine.head(split, x))
                    digest = hashlib.sha256(payload).digest()
                    reply = link.query(number, layout, payload, verify=True)
                    comparison.add(expected, reply, digest)
                found[split] = comparison.result()
        self._control.send("verified", splits=found)

    def _start(self, kit: Equipment, message: Message) -> None:
        self.close()
        policy, profile = message["policy"], message["profile"] or {}
        probe = ProbeRule(**message["probe"])
        if probe.bytes > MAX_PROBE_BYTES:
            raise UserError(
                f"probe.size: expected at most {MAX_PROBE_BYTES} bytes, got {probe.bytes}"
            )
        deadline_ns = message.get("deadline_ns")
        agent = Agent(
            _policy(kit, policy, message["seed"]),
            candidates_from_profile(profile) if profile else (),
            profile.get("base_network_ns", 0),
            probe,
            deadline_ns,
        )
        payload = memoryview(bytes(probe.bytes))
        if message["server"] is None and policy["name"] != LOCAL:
            raise UserError(
                f"policy {policy['name']}: needs a server, got none; only local does not"
            )
        if message["server"] is not None:
            endpoint = _endpoint(message, message["timeout_ns"])
            with _unreachable_is_told(endpoint):
                self._link = ServerLink(endpoint, kit.outputs, payload)
        self._loop = Loop(
            kit,
            agent,
            self._link,
            payload,
            run_id=message["run_id"],
            device=message["device"],
            policy=policy["name"],
            emit=partial(self._control.record, "queries"),
            seed=message["seed"],
            rules=Rules(
                ArrivalRule(**message.get("arrivals", {})), deadline_ns, message.get("hedge", False)
            ),
        )
        self._duration_ns = message["duration_ns"]
        self._loop.warm_up(message["warmup_queries"], self._control.stopping.is_set)
        gc.collect()
        self._control.send("started")

    def _go(self) -> None:
        if self._loop is None:
            raise UserError("device: go before start; send start first")
        before = Usage.now()
        try:
            with heap.no_collection():
                done = self._loop.measure(self._duration_ns, self._control.stopping.is_set)
        finally:  # a run that failed does not go on connecting
            self.close()
        used = Usage.now().since(before)
        self._control.send("done", **done, **used)


def _policy(kit: Equipment, message: Message, seed: int) -> Policy:
    oracle, source = message.get("oracle"), message.get("source")
    return make_policy(
        message["name"],
        kit.candidates,
        seed=seed,
        cycle_queries=message.get("queries"),
        table=kit.engine.table,
        oracle=Oracle.from_message(oracle) if oracle else None,
        source=Source(**source) if source else None,
    )


def _endpoint(message: Message, timeout_ns: int) -> Endpoint:
    server = message["server"]
    return Endpoint(
        server["address"],
        server["port"],
        server["token"],
        timeout_ns,
        message["congestion_control"],
    )


@contextmanager
def _unreachable_is_told(endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except (WireError, OSError) as error:
        raise TestbedError(
            f"server {endpoint.address}:{endpoint.port}: the exchange failed: {error}; "
            "is the data path open between the two hosts?"
        ) from error
