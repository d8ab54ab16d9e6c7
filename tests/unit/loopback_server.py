"""A real service on loopback over a tiny split table, run as the server role runs it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from testbed.model.table import SplitPoint, SplitTable
from testbed.worker.encoding import Decoder
from testbed.worker.layout import layouts
from testbed.worker.service import Job, Log, Service, Terms

OUTPUTS = 5
TABLE = SplitTable(
    "tiny",
    8,
    (3, 8, 8),
    OUTPUTS,
    (
        SplitPoint("offload", -1, "input", (), ((3, 8, 8),), 1.0, False, False),
        SplitPoint("0", 0, "a", ("a",), ((4, 4, 4),), 0.3, True, True),
        SplitPoint("local", 1, "output", ("b",), ((OUTPUTS,),), 0.03, False, False),
    ),
)
SPLITS = ("offload", "0", "local")
LAYOUTS = layouts(TABLE, SPLITS, {"input": "uint8", "features": "float32"}, 1)


def _ignore(event: object) -> None:
    pass


class LoopbackServer:
    """Its tail is a sum; connections are let in and tails run in threads of its own."""

    def __init__(self, log: Log = _ignore, congestion_control: str | None = None) -> None:
        self.log, self.congestion_control = log, congestion_control
        self.listen(0)

    def listen(self, port: int) -> None:
        terms = Terms("secret", tuple(LAYOUTS.values()), OUTPUTS, True, self.congestion_control)
        self.decoder, self.service = Decoder(LAYOUTS.values()), Service(terms, self.log)
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=run) for run in (self.accept, self.execute)]
        for thread in self.threads:
            thread.start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                self.service.admit(self.listener.accept()[0], "peer")

    def execute(self) -> None:
        while (job := self.service.jobs.get()) is not None:
            self.run(job)

    def run(self, job: Job) -> None:
        if job.layout is not None:
            job.logits.fill_(float(self.decoder.decode(job.layout, job.received).sum()))
        job.finished.put(job)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.service.jobs.put(None)
        for thread in self.threads:
            thread.join()
        self.service.close()
