"""One load client: the whole model in a closed loop, whenever the load role says so."""

from __future__ import annotations

from time import monotonic_ns, process_time_ns

from testbed.control import Control, Message
from testbed.errors import UserError
from testbed.model.engine import Engine
from testbed.model.table import LOCAL, SplitTable
from testbed.worker.host import build_engine, greeting, seeded_inputs


class LoadClient:
    """Reports each query it ran, so that the load achieved is measured and not assumed."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._engine: Engine | None = None

    def hello(self) -> Message:
        """Versions and facts sent with the greeting."""
        return greeting()

    def handle(self, message: Message) -> None:
        """Act on ``setup`` and ``go``; ``start`` has done its part when it cleared the stop."""
        if message["type"] == "setup":
            table = SplitTable.from_json(message["table"])
            self._engine = build_engine(message, table, (LOCAL,))
            (self._input,) = seeded_inputs(table, batch=message["batch"], seed=0, count=1)
            self._engine.whole(self._input)
            self._control.send("ready")
        elif message["type"] == "go":
            self._spin()

    def close(self) -> None:
        """Nothing is held beyond the process."""

    def _spin(self) -> None:
        if self._engine is None:
            raise UserError("load client: go before setup; send setup first")
        while not self._control.stopping.is_set():
            begun_ns, begun_cpu_ns = monotonic_ns(), process_time_ns()
            self._engine.whole(self._input)
            self._control.record(
                "load",
                {"took_ns": monotonic_ns() - begun_ns, "cpu_ns": process_time_ns() - begun_cpu_ns},
            )
