"""Keeps a model's process running until the model is closed."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from contextlib import ExitStack
from enum import Enum, auto

import structlog

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import DeadlineError, HeadraceError, ModelError
from headrace_runner.backends.llamacpp.child_process import ChildProcess, Endpoint, likely_cause
from headrace_runner.backends.llamacpp.lost import process_lost
from headrace_runner.backends.llamacpp.memory import resident_bytes
from headrace_runner.backends.llamacpp.private_folder import PrivateFolder
from headrace_runner.backends.llamacpp.process_log import ProcessLog
from headrace_runner.backends.llamacpp.settings import ProcessSettings
from headrace_runner.backends.llamacpp.watch import LOADING_MAX_S, TELL_LOADING_TICKS, TICK_S, LoadWatch, ServingWatch
from headrace_runner.other_process import set_priority
from headrace_runner.thread_priority import compete

_PAUSE_S = 0.05
_PAUSE_MAX_S = 5.0
# After so long a process that ends is started again at once.
_SOUND_AFTER_S = 30.0
_CLOSE_MAX_S = 10.0
_READ_BYTES = 1 << 16
_READY = b'"ready"'
_TOO_MUCH = "it takes far more memory or time than its size explains; its chat template may have no end"
_NO_PROCESS = "its process could not be started; the runner's log says why"
_FAILING_STARTS = 3
"""After so many starts in a row that failed the model is given up."""


class _End(Enum):
    """Why a run of the process is over."""

    CLOSED = auto()
    DIED = auto()
    HANGS = auto()


class ModelProcess:
    """One model's process, started again whenever it ends. All methods may be called in any thread.

    Its thread starts the process and watches it: the process ends with that thread, whatever becomes of the runner.

    Attributes:
        memory_bytes: Memory that it takes, as measured some seconds ago; while it is away, what it took.
        restarts: How often it was started again.
    """

    def __init__(self, *, settings: ProcessSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._log = structlog.stdlib.get_logger("llamacpp").bind(model=settings.name)
        self._changed = threading.Condition()
        self._endpoint: Endpoint | None = None
        self._child: ChildProcess | None = None
        self._failure: HeadraceError | None = None
        self._closed = False
        self._failed_starts = 0
        self._waking, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="llamacpp", daemon=True)
        self.memory_bytes = self.restarts = 0

    @property
    def pid(self) -> int:
        """The process's id; 0 while there is none."""
        child = self._child
        return 0 if child is None else child.pid

    @property
    def load_ratio(self) -> float:
        """How much of the model's file is in memory while it loads, about."""
        pid = self.pid
        return resident_bytes(pid) / max(1, self._settings.path.stat().st_size) if pid else 0.0

    @property
    def failure(self) -> HeadraceError | None:
        """Why the process is given up: it could not be started, or not again. None while it may come back."""
        return self._failure

    def start(self) -> None:
        """Starts the process and waits until its model is loaded. To be called once; on failure all is freed.

        Raises:
            ModelError: MODEL_LOAD_FAILED (FAILED_PRECONDITION), with the reason.
            DeadlineError: MODEL_LOAD_TIMEOUT (DEADLINE_EXCEEDED).
        """
        self._thread.start()
        with self._changed:
            settled = self._changed.wait_for(lambda: self._endpoint or self._failure or self._closed, LOADING_MAX_S)
            failure = self._failure
        if settled and failure is None and not self._closed:
            return
        self.close()
        if failure is None:
            failure = DeadlineError("the model's process did not get ready", entry=catalogue.MODEL_LOAD_TIMEOUT)
        raise failure

    def endpoint(self) -> Endpoint:
        """Where the model answers now.

        Raises:
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        endpoint = self._endpoint
        if endpoint is None:
            raise process_lost()
        return endpoint

    def renew(self) -> None:
        """Kills the process, which is started again."""
        with self._changed:
            child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """Kills the process and removes what it had. Returns when it is gone. Safe to call again."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._endpoint = None
            self._changed.notify_all()
            child = self._child
        if first:
            self._waking.close()
        if child is not None:
            # Its thread may be asking it something, which ends with it.
            child.kill()
        if self._thread.ident is None:
            self._woken.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_MAX_S)

    def _run(self) -> None:
        pause_s = _PAUSE_S
        while not self._closed:
            started_s = self._clock.monotonic()
            try:
                why_failed = self._run_once()
            except Exception:  # noqa: BLE001 - whatever the system refuses, it may grant later
                self._log.exception("the model's process could not be started or watched")
                why_failed = _NO_PROCESS
            if why_failed:
                self._failed_starts += 1
                if not self.restarts or self._failed_starts >= _FAILING_STARTS:
                    self._give_up(why_failed)
                    break
            self.restarts += 1
            pause_s = _PAUSE_S if self._clock.monotonic() - started_s > _SOUND_AFTER_S else pause_s
            with self._changed:
                self._changed.wait_for(lambda: self._closed, pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)
        self._woken.close()

    def _run_once(self) -> str:
        """One run of the process. Returns why it could not load the model; empty where it had, or was closed."""
        log = ProcessLog(model=self._settings.name, clock=self._clock)
        folder = PrivateFolder()
        try:
            child = ChildProcess(settings=self._settings, folder=folder.path)
            try:
                with self._changed:
                    self._child = child
                end = self._follow(child, log)
            finally:
                was_ready = self._endpoint is not None
                with self._changed:
                    self._endpoint = self._child = None
                how = child.end()
        finally:
            folder.remove()
        if end is _End.CLOSED:
            return ""
        if was_ready:
            how = how if end is _End.DIED else "did not compute any more"
            self._log.warning(
                "the model's process is lost and is started again",
                ending=how,
                last_words=log.last_words(),
                restarts=self.restarts,
            )
            return ""
        self._log.warning("the model's process could not load it", ending=how)
        return log.load_error() or (_TOO_MUCH if end is _End.HANGS else likely_cause(how))

    def _follow(self, child: ChildProcess, log: ProcessLog) -> _End:
        """Follows the process until it ends, hangs, or is to end."""
        watch: LoadWatch | ServingWatch = LoadWatch(pid=child.pid, settings=self._settings, clock=self._clock)
        tick_s = self._clock.monotonic()
        with selectors.DefaultSelector() as selector, ExitStack() as at_end:
            for source in (child.answers, child.errors, self._woken):
                selector.register(source, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in selector.select(TICK_S):
                    if isinstance(key.data, ServingWatch):
                        key.data.read()
                    elif key.fileobj is self._woken:
                        return _End.CLOSED
                    elif key.fileobj is child.errors:
                        if not log.feed(os.read(key.fd, _READ_BYTES)):
                            selector.unregister(child.errors)
                    elif _READY in os.read(key.fd, _READ_BYTES):
                        log.loaded()
                        watch = self._loaded(child, selector)
                        at_end.callback(watch.close)
                    else:
                        self._drain(child, log)
                        return _End.DIED
                if self._clock.monotonic() - tick_s >= TICK_S:
                    tick_s = self._clock.monotonic()
                    if self._tick(watch):
                        return _End.HANGS
        return _End.CLOSED

    def _tick(self, watch: LoadWatch | ServingWatch) -> bool:
        """Does what is due, and says whether the process is to be ended."""
        hangs = watch.tick()
        if isinstance(watch, ServingWatch):
            self.memory_bytes = watch.memory_bytes
        elif watch.ticks % TELL_LOADING_TICKS == 0:
            self._log.info(
                "the model's process loads it", resident_bytes=watch.resident_bytes, file_bytes=watch.file_bytes
            )
        return hangs

    def _drain(self, child: ChildProcess, log: ProcessLog) -> None:
        """Reads what the process has still said. It is dead, so this ends."""
        os.set_blocking(child.errors.fileno(), False)
        try:
            while data := os.read(child.errors.fileno(), _READ_BYTES):
                log.feed(data)
        except (BlockingIOError, ValueError):
            pass
        log.end()

    def _loaded(self, child: ChildProcess, selector: selectors.BaseSelector) -> ServingWatch:
        # It has inherited giving way from the load that started it.
        set_priority(child.pid, compete)
        watch = ServingWatch(pid=child.pid, endpoint=child.endpoint, settings=self._settings, selector=selector)
        self.memory_bytes = watch.memory_bytes
        self._failed_starts = 0
        self._log.info("the model's process is ready", pid=child.pid, memory_bytes=self.memory_bytes)
        with self._changed:
            if not self._closed:
                self._endpoint = child.endpoint
            self._changed.notify_all()
        return watch

    def _give_up(self, reason: str) -> None:
        with self._changed:
            self._failure = ModelError(f"the model can't be loaded: {reason}", entry=catalogue.MODEL_LOAD_FAILED)
            self._changed.notify_all()
