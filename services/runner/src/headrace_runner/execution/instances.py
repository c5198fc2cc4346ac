"""The threads that execute one model, and a new one for each that doesn't come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

from headrace_runner.thread_priority import give_way

Run = TypeVar("Run")

_LOST_MAX = 8


class Instance(Generic[Run]):
    """One thread that executes runs, one after another.

    Args:
        background: Whether the thread gives way to all others, for good: only privileged processes could take it back.

    Attributes:
        thread_id: Identifier of the thread, as `threading.get_ident` gives it.
    """

    def __init__(self, *, name: str, background: bool, execute: Callable[[Run], None]) -> None:
        self.background = background
        self._execute = execute
        self._runs: SimpleQueue[Run | None] = SimpleQueue()
        # A daemon, because a model that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def thread_id(self) -> int:
        return self._thread.ident or 0

    @property
    def alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def submit(self, run: Run) -> None:
        """Has a run executed; it belongs to whoever executes it, errors included."""
        self._runs.put(run)

    def stop(self) -> None:
        """Ends the thread when it has executed what it was given."""
        self._runs.put(None)

    def join(self, timeout_s: float | None = None) -> None:
        """Blocks until the thread has ended, or `timeout_s` is over."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            run = self._runs.get()
            if run is None:
                return
            if self.background:
                # Each time: a load that ends lets all threads compete that were made while it ran. Where the system
                # refuses, it competes like the others.
                with suppress(OSError):
                    give_way(threading.get_native_id())
            self._execute(run)
            # An idle thread must not keep the tensors of its last run alive.
            del run


class Instances(Generic[Run]):
    """The threads of a replica, made when they are needed. Event loop only.

    Args:
        name: Model and version, for the threads' names.
        execute: Executes one run, in a thread.
    """

    def __init__(self, *, name: str, execute: Callable[[Run], None]) -> None:
        self._name = name
        self._execute = execute
        self._started = 0
        self._idle: dict[bool, list[Instance[Run]]] = {False: [], True: []}
        self._busy: dict[int, Instance[Run]] = {}
        self._lost: set[Instance[Run]] = set()

    def submit(self, run: Run, *, background: bool) -> None:
        """Gives a run to a thread that has none; the caller keeps to the number of them.

        Args:
            run: What to execute.
            background: Whether other threads of the machine should be preferred.
        """
        idle = self._idle[background]
        instance = idle.pop() if idle else self._new(background)
        self._busy[id(run)] = instance
        instance.submit(run)

    def ended(self, run: Run) -> None:
        """The run's thread is free; one that was given up leaves."""
        instance = self._busy.pop(id(run), None)
        if instance is not None:
            self._idle[instance.background].append(instance)

    def thread_of(self, run: Run) -> int:
        """Identifier of the thread that executes the run."""
        return self._busy[id(run)].thread_id

    def replace(self, run: Run) -> bool:
        """The run doesn't end: its thread is given up, and ends if the run ever does. Another may take its place.

        Returns:
            Whether that was done. Threads can't be killed, so no more than a few are given up.
        """
        self._lost = {instance for instance in self._lost if instance.alive}
        if len(self._lost) >= _LOST_MAX:
            return False
        instance = self._busy.pop(id(run))
        instance.stop()
        self._lost.add(instance)
        return True

    def stop(self) -> None:
        """Ends all threads when they have executed what they were given."""
        for instance in self._all():
            instance.stop()

    def join(self) -> None:
        """Blocks until every thread that was not given up has ended."""
        for instance in self._all():
            instance.join()

    def _all(self) -> list[Instance[Run]]:
        return [*self._idle[False], *self._idle[True], *self._busy.values()]

    def _new(self, background: bool) -> Instance[Run]:
        self._started += 1
        name = f"infer-{self._name}-{self._started}"
        return Instance(name=name, background=background, execute=self._execute)
