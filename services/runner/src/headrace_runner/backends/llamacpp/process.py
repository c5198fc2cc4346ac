"""Keeps a model's process running until the model is closed."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from enum import Enum, auto

import structlog

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import DeadlineError, HeadraceError, ModelError
from headrace_runner.backends.llamacpp.child_process import (
    ChildProcess,
    Endpoint,
    compete_for_processors,
    likely_cause,
)
from headrace_runner.backends.llamacpp.lost import process_lost
from headrace_runner.backends.llamacpp.memory import process_bytes, resident_bytes
from headrace_runner.backends.llamacpp.private_folder import PrivateFolder
from headrace_runner.backends.llamacpp.process_log import ProcessLog
from headrace_runner.backends.llamacpp.settings import ProcessSettings
from headrace_runner.backends.llamacpp.watch import LOADING_MAX_S, TICK_S, Watch

_PAUSE_S = 0.05
_PAUSE_MAX_S = 5.0
# After so long a process that ends is started again at once.
_SOUND_AFTER_S = 30.0
_CLOSE_MAX_S = 10.0
_READ_BYTES = 1 << 16
# Of what a process may have; while it loads it has much less.
_DATA_LOADED_MAX = 0.75
_TOO_MUCH = "it takes far more memory or time than its size explains; its chat template may have no end"
FAILING_STARTS = 3
"""After so many starts in a row that failed a process is not expected back soon."""


class _End(Enum):
    """Why a run of the process is over."""

    CLOSED = auto()
    DIED = auto()
    HANGS = auto()


class ModelProcess:
    """One model's process, started again whenever it ends. All methods may be called in any thread.

    Its thread starts the process and watches it: the process ends with that thread, whatever becomes of the runner.
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
        self._waking, self._woken = socket.socketpair()
        self._folder = PrivateFolder()
        self._thread = threading.Thread(target=self._run, name="llamacpp", daemon=True)
        self.pid = 0
        """The process's id; that of its last run while it is away."""
        self.memory_bytes = 0
        """Memory that it takes, as measured some seconds ago."""
        self.restarts = 0
        """How often it was started again."""
        self.hangs = 0
        """How often it was killed because it computed nothing any more."""
        self.failed_starts = 0
        """Starts that failed since it was last there."""

    def start(self) -> None:
        """Starts the process and waits until its model is loaded. To be called once; on failure all is freed.

        Raises:
            ModelError: MODEL_LOAD_FAILED (FAILED_PRECONDITION), with llama.cpp's reason.
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
            self._free()
        elif self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_MAX_S)

    def _run(self) -> None:
        try:
            pause_s = _PAUSE_S
            while not self._closed:
                started_s = self._clock.monotonic()
                if not self._run_once():
                    return
                self.restarts += 1
                pause_s = _PAUSE_S if self._clock.monotonic() - started_s > _SOUND_AFTER_S else pause_s
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause_s)
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)
        except Exception:  # noqa: BLE001 - whoever waits for the process must hear of it
            self._log.exception("the process can't be watched")
            self._give_up(ModelError("the model's process could not be started", entry=catalogue.MODEL_LOAD_FAILED))
        finally:
            self._free()

    def _run_once(self) -> bool:
        """One run of the process; returns whether there shall be another."""
        log = ProcessLog(model=self._settings.name, clock=self._clock)
        child = ChildProcess(settings=self._settings, folder=self._folder.path)
        self.pid = child.pid
        try:
            with self._changed:
                self._child = child
            end = self._watch(child, log)
            if end is _End.HANGS:
                # Before its streams end, so that those can tell.
                self.hangs += 1
        finally:
            was_ready = self._endpoint is not None
            with self._changed:
                self._endpoint = self._child = None
            how = child.end()
        self.memory_bytes = 0
        if end is _End.CLOSED:
            return False
        if was_ready:
            how = how if end is _End.DIED else "did not compute any more"
            self._log.warning(
                "the model's process is lost and is started again",
                ending=how,
                last_words=log.last_words(),
                restarts=self.restarts,
            )
            return True
        self.failed_starts += 1
        reason = log.load_error() or (_TOO_MUCH if end is _End.HANGS else likely_cause(how))
        self._log.warning("the model's process could not load it", reason=reason, ending=how)
        if self.restarts:
            return True
        self._give_up(ModelError(f"llama.cpp can't load the model: {reason}", entry=catalogue.MODEL_LOAD_FAILED))
        return False

    def _watch(self, child: ChildProcess, log: ProcessLog) -> _End:
        """Follows the process until it ends, hangs, or is to end."""
        watch = Watch(clock=self._clock, batch=self._settings.batch)
        with selectors.DefaultSelector() as selector:
            for source in (child.answers, child.errors, self._woken):
                selector.register(source, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in selector.select(TICK_S):
                    if key.fileobj is self._woken:
                        return _End.CLOSED
                    data = os.read(key.fd, _READ_BYTES)
                    if key.fileobj is child.errors:
                        log.feed(data)
                    elif b'"ready"' in data:
                        log.loaded()
                        self._loaded(child)
                        watch.ready()
                    if not data and key.fileobj is child.answers:
                        self._drain(child, log)
                        return _End.DIED
                    if not data:
                        selector.unregister(child.errors)
                if self._hangs(child, watch):
                    return _End.HANGS
        return _End.CLOSED

    def _hangs(self, child: ChildProcess, watch: Watch) -> bool:
        """Does what is due, and says whether the process has been silent for too long."""
        if self._endpoint is None:
            return self._loads_too_much(child, watch)
        if watch.measures():
            self.memory_bytes = process_bytes(child.pid)
        return watch.is_silent(child.endpoint)

    def _loads_too_much(self, child: ChildProcess, watch: Watch) -> bool:
        """Tells how far the load is, and says whether it is no load of a sound model."""
        resident, file_bytes = resident_bytes(child.pid), self._settings.path.stat().st_size
        if watch.tells_loading():
            self._log.info(
                "the model's process loads it",
                resident_bytes=resident,
                file_bytes=file_bytes,
                seconds=round(watch.age_s),
            )
        # llama.cpp would try again and again where it gets no more.
        limit = self._settings.data_bytes_max
        uses_up = limit > 0 and resident - file_bytes > limit * _DATA_LOADED_MAX
        return uses_up or watch.age_s > LOADING_MAX_S

    def _drain(self, child: ChildProcess, log: ProcessLog) -> None:
        """Reads what the process has still said. It is dead, so this ends."""
        os.set_blocking(child.errors.fileno(), False)
        try:
            while data := os.read(child.errors.fileno(), _READ_BYTES):
                log.feed(data)
        except (BlockingIOError, ValueError):
            pass
        log.end()

    def _loaded(self, child: ChildProcess) -> None:
        self.memory_bytes = process_bytes(child.pid)
        self.failed_starts = 0
        compete_for_processors(child.pid)
        self._log.info("the model's process is ready", pid=child.pid, memory_bytes=self.memory_bytes)
        with self._changed:
            if not self._closed:
                self._endpoint = child.endpoint
            self._changed.notify_all()

    def _give_up(self, failure: HeadraceError) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _free(self) -> None:
        self._woken.close()
        self._folder.remove()
