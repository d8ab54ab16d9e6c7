"""The server's connections during one run: who is let in, what is read, what is answered."""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from time import monotonic_ns
from typing import Any

from torch import Tensor

from testbed.errors import TestbedError
from testbed.worker.encoding import aligned_buffer, largest_bytes, tensor_view
from testbed.worker.layout import (
    FLOAT32_BYTES,
    REPLY_BYTES,
    Allowed,
    Layout,
    pack_times,
    reply_header,
)
from testbed.worker.transfer import Frame, Receiver, burst_spent, configure, mark_bytes, send
from testbed.worker.wire import (
    HEADER_BYTES,
    MAX_PROBE_BYTES,
    MAX_TEXT_BYTES,
    VERIFY,
    BadFrame,
    Dtype,
    Header,
    Kind,
    WireError,
    describe,
    seal,
)

Log = Callable[[dict[str, Any]], None]

# A peer that shows no token, or stops within a frame, holds a thread no longer than this.
_TOKEN_TIMEOUT_NS = 5_000_000_000
_FRAME_TIMEOUT_NS = 60_000_000_000
# A few devices and the load's clients; each connection holds one buffer.
_MAX_CONNECTIONS = 80
# Ids from here on are the load's: too many to log, and its own records count them.
FIRST_LOAD_QUERY = 1 << 40
# A peer whose cable is cut sends nothing ever again: the kernel asks after this much silence.
_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
}
_NO_DIGEST = bytes(32)


class WrongToken(WireError):
    """The peer does not belong to this run."""


@dataclass
class Job:
    """One tail to run: the executor fills in the answer and puts the job into ``finished``.

    Without a layout it is a probe's place in the queue, and runs nothing.
    """

    layout: Layout | None
    received: memoryview
    logits: Tensor
    finished: SimpleQueue[Job]
    decode_ns: int = 0
    tail_ns: int = 0
    fault: str | None = None


@dataclass(frozen=True)
class Terms:
    """What one run's connections are held to; ``outputs`` is the length of all logits."""

    token: str
    layouts: tuple[Layout, ...]
    outputs: int
    burst_from_rate: bool
    congestion_control: str | None


@dataclass
class Service:
    """The run's connections, a thread each; ``jobs`` is the first-in-first-out queue of tails."""

    terms: Terms
    log: Log
    jobs: SimpleQueue[Job] = field(default_factory=SimpleQueue)
    queries: int = 0
    _open: dict[socket.socket, threading.Thread] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def admit(self, sock: socket.socket, peer: str) -> None:
        """Serve a connection in a thread of its own, or close it when there are too many."""
        with self._lock:
            refusal = "the run has ended" if self._closed else None
            if len(self._open) >= _MAX_CONNECTIONS:
                refusal = f"expected at most {_MAX_CONNECTIONS} connections"
            if refusal is None:
                name = f"connection {peer}"
                thread = threading.Thread(target=self._serve, args=(sock, peer), name=name)
                self._open[sock] = thread
                thread.start()
                return
        sock.close()
        self.event("refused", peer=peer, reason=refusal)

    def close(self) -> None:
        """Close every connection and wait for its thread; the executor has ended before."""
        with self._lock:
            self._closed = True
            threads = list(self._open.values())
            for sock in self._open:
                with suppress(OSError):  # the peer was first
                    sock.shutdown(socket.SHUT_RDWR)
            while not self.jobs.empty():
                job = self.jobs.get()
                job.fault = "the run has ended"
                job.finished.put(job)
        for thread in threads:
            thread.join()

    def submit(self, job: Job) -> None:
        """Queue a tail; raises WireError when the run has ended and nobody will run it."""
        with self._lock:
            if self._closed:
                raise WireError("the run has ended")
            self.jobs.put(job)

    def event(self, event: str, **fields: Any) -> None:
        """Log one event, with the server's monotonic time."""
        self.log({"t_ns": monotonic_ns(), "event": event, **fields})

    def _serve(self, sock: socket.socket, peer: str) -> None:
        try:
            _show_token(sock, self.terms)
            self.event("connected", peer=peer)
            _Conversation(self, sock, peer).hold()
        except BadFrame as error:
            self.event("bad_frame", peer=peer, reason=str(error))
            _tell(sock, str(error))
        except WrongToken as error:
            self.event("refused", peer=peer, reason=str(error))
            _tell(sock, str(error))
        except TestbedError as error:  # what this host cannot do for a connection, too
            self.event("closed", peer=peer, reason=str(error))
            _tell(sock, str(error))
        except OSError as error:
            self.event("closed", peer=peer, reason=f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                del self._open[sock]
                sock.close()


def _show_token(sock: socket.socket, terms: Terms) -> None:
    configure(sock, _TOKEN_TIMEOUT_NS, terms.congestion_control)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    wanted = terms.token.encode()

    def allowed(header: Header) -> None:
        if header.kind != Kind.TOKEN or header.payload_bytes > MAX_TEXT_BYTES:
            raise BadFrame(f"first frame: expected the run's token, got kind {header.kind}")

    buffer = memoryview(bytearray(HEADER_BYTES + MAX_TEXT_BYTES))
    frame = Receiver(sock, buffer, allowed).receive(timeout_ns=_TOKEN_TIMEOUT_NS)
    if not hmac.compare_digest(bytes(frame.payload), wanted):
        raise WrongToken("token: not this run's; the device must be told the run's own")
    configure(sock, _FRAME_TIMEOUT_NS, None)
    send(sock, seal(describe(reply_header(0))), timeout_ns=_TOKEN_TIMEOUT_NS)


def _tell(sock: socket.socket, reason: str) -> None:
    text = reason.encode()[:MAX_TEXT_BYTES]
    with suppress(WireError, OSError):  # the reason is in the log; a peer may be gone
        header = Header(Kind.ERROR, 0, Dtype.RAW, 0, (), len(text))
        send(sock, seal(describe(header)), text, timeout_ns=10**9)


class _Conversation:
    """One admitted connection: frames in, replies out, one at a time."""

    def __init__(self, service: Service, sock: socket.socket, peer: str) -> None:
        self._service, self._socket, self._peer = service, sock, peer
        terms = service.terms
        self._allowed = Allowed(terms.layouts)
        size = max(largest_bytes(terms.layouts), MAX_PROBE_BYTES)
        self._receiver = Receiver(sock, aligned_buffer(HEADER_BYTES + size), self._allowed)
        self._reply = aligned_buffer(terms.outputs * FLOAT32_BYTES)
        self._logits = tensor_view(self._reply, Dtype.FLOAT32, (terms.outputs,))
        self._descriptions = {
            size: describe(reply_header(REPLY_BYTES + size)) for size in (0, len(self._reply))
        }
        self._finished: SimpleQueue[Job] = SimpleQueue()
        self._rate_bps = 0.0

    def hold(self) -> None:
        """Answer until the peer leaves; raises WireError or OSError, whatever ended it."""
        while True:
            mark = mark_bytes(self._rate_bps)
            frame = self._receiver.receive(timeout_ns=_FRAME_TIMEOUT_NS, mark_bytes=mark, idle=True)
            if self._service.terms.burst_from_rate:
                frame = self._follow(frame, mark)
            self._serve(frame, frame.header.kind == Kind.PROBE)

    def _follow(self, frame: Frame, mark: int) -> Frame:
        """Set the next mark by this frame's rate; a span that began inside the burst tells none.

        A frame too small for its mark says nothing, and the rate behind that mark may be long
        over: the next one is marked as if no rate were known.
        """
        if not frame.span_bytes or not frame.span_ns:
            self._rate_bps = 0.0
            return frame
        self._rate_bps = frame.span_bytes * 8e9 / frame.span_ns
        if burst_spent(frame.span_bytes, self._rate_bps, mark):
            return frame
        return replace(frame, span_bytes=None, span_ns=None)

    def _serve(self, frame: Frame, probe: bool) -> None:
        """Queue for the executor and answer; a probe too, so that it tells of the queue."""
        verify = frame.header.flags & VERIFY
        digest = hashlib.sha256(frame.payload).digest() if verify else _NO_DIGEST
        layout = None if probe else self._allowed.by_id[frame.header.split]
        self._service.submit(Job(layout, frame.payload, self._logits, self._finished))
        logits = self._reply if layout else b""
        description = self._descriptions[len(logits)]
        header = seal(description, frame.query)
        job = self._finished.get()
        if job.fault is not None:
            where = f"tail of split {layout.split}" if layout else "probe"
            raise WireError(f"{where}: {job.fault}")
        decode_ns, tail_ns = job.decode_ns, job.tail_ns
        wait_ns = monotonic_ns() - frame.arrived_ns - decode_ns - tail_ns
        times = pack_times(wait_ns, decode_ns, tail_ns, frame.span_bytes, frame.span_ns, digest)
        send(self._socket, header, logits, times, timeout_ns=_FRAME_TIMEOUT_NS)
        self._receiver.expect(frame.query + 1)
        seal(description, frame.query + 1)  # what is likely to be sent next
        self._log(frame, job, wait_ns)

    def _log(self, frame: Frame, job: Job, wait_ns: int) -> None:
        self._service.queries += 1
        if frame.query >= FIRST_LOAD_QUERY:
            return
        self._service.event(
            "query",
            peer=self._peer,
            query=frame.query,
            split=job.layout.split if job.layout else None,
            wait_ns=wait_ns,
            decode_ns=job.decode_ns,
            tail_ns=job.tail_ns,
            payload_bytes=frame.header.payload_bytes,
            span_bytes=frame.span_bytes,
            span_ns=frame.span_ns,
        )
