"""What is due while a model's process runs."""

from __future__ import annotations

import selectors

from headrace_common.clock import Clock
from headrace_runner.backends.llamacpp.child_process import Endpoint
from headrace_runner.backends.llamacpp.memory import process_bytes, resident_bytes
from headrace_runner.backends.llamacpp.probe import Probe
from headrace_runner.backends.llamacpp.settings import ProcessSettings
from headrace_runner.backends.llamacpp.silence import Silence
from headrace_runner.other_process import computed_by, set_priority
from headrace_runner.thread_priority import compete

TICK_S = 1.0
LOADING_MAX_S = 600.0
TELL_LOADING_TICKS = 5
_MEASURE_TICKS = 10
# A load that calls keep from computing would never end: like the runner's own threads, it gives way no longer then.
_GIVES_WAY_TICKS = 10
# Of what a process may have; while it loads it has much less.
_DATA_LOADED_MAX = 0.75


class LoadWatch:
    """Follows a process that loads its model.

    Attributes:
        ticks: How often it has looked.
        resident_bytes: Memory of the process then.
        file_bytes: Size of the model's file.
    """

    def __init__(self, *, pid: int, settings: ProcessSettings, clock: Clock) -> None:
        self._pid = pid
        self._clock = clock
        self._data_bytes_max = settings.data_bytes_max
        self._started_s = clock.monotonic()
        self.ticks = self.resident_bytes = 0
        self.file_bytes = settings.path.stat().st_size

    def tick(self) -> bool:
        """Whether it is no load of a sound model: llama.cpp would try again and again where it gets no more memory."""
        self.ticks += 1
        if self.ticks == _GIVES_WAY_TICKS:
            set_priority(self._pid, compete)
        self.resident_bytes = resident_bytes(self._pid)
        limit = self._data_bytes_max * _DATA_LOADED_MAX
        uses_up = limit > 0 and self.resident_bytes - self.file_bytes > limit
        return uses_up or self._clock.monotonic() - self._started_s > LOADING_MAX_S


class ServingWatch:
    """Follows a process that serves.

    Args:
        selector: Tells by this watch, as the data of its key, that `read` is to be called.

    Attributes:
        memory_bytes: What it took when it was last measured.
    """

    def __init__(
        self, *, pid: int, endpoint: Endpoint, settings: ProcessSettings, selector: selectors.BaseSelector
    ) -> None:
        self._pid = pid
        self._probe = Probe(endpoint=endpoint, selector=selector, told=self)
        self._silence = Silence(work_max_s=settings.batch_max_s)
        self._answered = True
        self._ticks = 0
        self.memory_bytes = process_bytes(pid)

    def read(self) -> None:
        """Takes what has come for its question."""
        self._answered = self._probe.read() or self._answered

    def tick(self) -> bool:
        """Whether the process hangs. What has come for its question has been read."""
        self._ticks += 1
        if self._ticks % _MEASURE_TICKS == 0:
            self.memory_bytes = process_bytes(self._pid) or self.memory_bytes
        used_s = computed_by(self._pid)
        hangs = not self._answered and self._silence.goes_on(used_s)
        if self._answered:
            self._answered = False
            self._silence.begins(used_s)
        self._probe.ask()
        return hangs

    def close(self) -> None:
        """Safe to call again."""
        self._probe.close()
