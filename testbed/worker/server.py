"""The server role: listens on the data address and runs the tails, one at a time, in order."""

from __future__ import annotations

import queue
import socket
import threading
from time import monotonic_ns

import torch

from testbed.control import Control, Message
from testbed.errors import TestbedError, UserError
from testbed.model.engine import Engine
from testbed.model.table import SplitTable
from testbed.worker import heap
from testbed.worker.appraise import appraise
from testbed.worker.encoding import Decoder
from testbed.worker.host import Usage, build_engine, greeting, resident_bytes
from testbed.worker.inputs import real_inputs, seeded_inputs
from testbed.worker.layout import Layout, layouts
from testbed.worker.service import Job, Service, Terms

_STOP_POLL_S = 0.05


class ServerRole:
    """Tails run in the main thread: it keeps torch's thread pool and the allocator's arena."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._engine: Engine | None = None
        self._pictures: dict[str, str] | None = None
        self._layouts: tuple[Layout, ...] = ()
        self._decoder = Decoder(())
        self._outputs = 0
        self._listener: socket.socket | None = None
        self._service: Service | None = None

    def hello(self) -> Message:
        """Versions and facts sent with the greeting."""
        return greeting()

    def handle(self, message: Message) -> None:
        """Act on ``setup``, ``appraise``, ``start`` or ``go``."""
        if message["type"] == "setup":
            self._setup(message)
        elif message["type"] == "appraise":
            self._appraise(message)
        elif message["type"] == "start":
            self._start(message)
        elif message["type"] == "go":
            self._go()
        else:
            raise UserError(f"server: unknown message {message['type']!r}")

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._end_run()
        if self._listener is not None:
            # Without the shutdown the accepting thread would sleep on a socket that is gone.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _setup(self, message: Message) -> None:
        self.close()
        if self._engine is not None:
            self._engine = None  # one that fails leaves none, not the one before
            heap.release()
        table = SplitTable.from_json(message["table"])
        batch, candidates = message["batch"], message["candidates"]
        known = layouts(table, candidates, message["encoding"], batch)
        self._layouts, self._outputs = tuple(known.values()), batch * table.outputs
        self._decoder = Decoder(self._layouts)
        self._engine, told = build_engine(message, table, candidates)
        self._pictures = message.get("pictures")
        (probe_input,) = seeded_inputs(table, batch=batch, seed=0, count=1)
        check = self._engine.check(probe_input)
        heap.settle()
        self._listener = _listen(message["data"]["address"], message["data"]["port"])
        threading.Thread(
            target=self._accept, args=(self._listener,), name="accept", daemon=True
        ).start()
        self._control.send(
            "ready",
            port=self._listener.getsockname()[1],
            archive_sha256=message["archive_sha256"],
            check=check,
            rss_bytes=resident_bytes(),
            torch=torch.__version__,
            **told,
        )

    def _appraise(self, message: Message) -> None:
        if self._engine is None:
            raise UserError("server: appraise before setup; send setup first")
        engine, sent = self._engine, self._pictures
        pictures = real_inputs(sent, engine.batch) if sent else None
        found = appraise(engine, pictures=pictures, **message["asked"])
        self._control.send("appraised", encodings=found)

    def _start(self, message: Message) -> None:
        if self._engine is None:
            raise UserError("server: start before setup; send setup first")
        self._end_run()
        terms = Terms(
            token=message["token"],
            layouts=self._layouts,
            outputs=self._outputs,
            burst_from_rate=message.get("burst_from_rate", True),
            congestion_control=message.get("congestion_control"),
        )
        self._service = Service(terms, lambda event: self._control.record("server", event))
        self._control.send("started")

    def _go(self) -> None:
        service, engine = self._service, self._engine
        if service is None or engine is None:
            raise UserError("server: go before start; send start first")
        before = Usage.now()
        while not self._control.stopping.is_set():
            try:
                job = service.jobs.get(timeout=_STOP_POLL_S)
            except queue.Empty:
                continue
            _execute(engine, self._decoder, job)
        self._end_run()
        used = Usage.now().since(before)
        self._control.send("done", queries=service.queries, **used)

    def _end_run(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            service.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, (address, port) = listener.accept()
            except ConnectionAbortedError:
                continue  # the peer left before it was let in
            except OSError:
                return  # the listener was closed
            service = self._service
            if service is None:
                sock.close()
                peer = f"{address}:{port}"
                event = {"t_ns": monotonic_ns(), "event": "refused", "peer": peer}
                self._control.record("server", {**event, "reason": "no run is in progress"})
            else:
                service.admit(sock, f"{address}:{port}")


def _listen(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port), backlog=8)
    except OSError as error:
        raise TestbedError(
            f"data.address: cannot listen on {address}:{port}: {error.strerror}; "
            "is it an address of this host, and the port free?"
        ) from error


def _execute(engine: Engine, decoder: Decoder, job: Job) -> None:
    """Decode and run one tail; whatever fails is told to the job's connection."""
    if job.layout is None:
        job.finished.put(job)
        return
    try:
        begun_ns = monotonic_ns()
        received = decoder.decode(job.layout, job.received)
        decoded_ns = monotonic_ns()
        logits = engine.tail(job.layout.split, received)
        done_ns = monotonic_ns()
        job.logits.copy_(logits.reshape(-1))
        job.decode_ns, job.tail_ns = decoded_ns - begun_ns, done_ns - decoded_ns
    except Exception as error:  # one query's failure must not end the server
        job.fault = f"{type(error).__name__}: {error}"
    job.finished.put(job)
