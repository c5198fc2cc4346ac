"""The models of this process: loads them on wants, answers calls, unloads them again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from headrace.gateway.v1.mesh_pb2 import BackendInfo, ModelState
from headrace.registry.v1.manifest_pb2 import ModelTask
from headrace.registry.v1.models_pb2 import Version
from headrace.runner.internal.v1.mesh_pb2 import Device, Heartbeat, ModelEvent
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import DeviceError, HeadraceError, ModelError, ModelUnavailable
from headrace_common.request_id import new_request_id
from headrace_common.rpc_status import to_status
from headrace_common.tasks import TaskGuard
from headrace_runner.backends.contract import MayFail
from headrace_runner.backends.generation import ComputesAside, GenerativeModel
from headrace_runner.backends.reports import BackendReports
from headrace_runner.calls import Cancel, Ended, IncomingCall
from headrace_runner.device import Gauges
from headrace_runner.execution.serving import ServingReplica
from headrace_runner.load_report import most_recent
from headrace_runner.loading.load_progress import LoadProgress
from headrace_runner.loading.load_retry import LoadRetry
from headrace_runner.loading.model_loader import LoadedReplica, ModelLoader
from headrace_runner.loading.residency import Residency
from headrace_runner.metrics import RunnerMetrics

Listener = Callable[[ModelEvent], None]

_SWEEP_S = 5.0
_PROGRESS_S = 1.0
# A runner with a call so lately serves more of them.
_SERVING_S = 1.0


@dataclass(slots=True, eq=False)
class _Entry:
    """One model version that someone wants or wanted.

    Attributes:
        release_due: It is loading, and shall be let go as soon as it has loaded.
    """

    tenant_id: str
    version: Version
    ticket: str
    event: ModelEvent
    loaded: LoadedReplica | None = None
    retry: LoadRetry = field(default_factory=LoadRetry)
    release_due: bool = False


class ModelHost:
    """Holds the models of a runner process. Event loop only.

    Args:
        loader: Makes replicas.
        residency: Decides what stays in memory.
        device: What this process computes on.
        backends: Tells what the backends are, can do and do.
        threads: Processor threads of this runner, its capacity for routing.
        gauges: Read for each heartbeat.
        tasks: Owns loads and unloads.
    """

    def __init__(
        self,
        *,
        loader: ModelLoader,
        residency: Residency,
        device: Device,
        backends: BackendReports,
        threads: int,
        gauges: Gauges,
        tasks: TaskGuard,
        clock: Clock,
        metrics: RunnerMetrics,
    ) -> None:
        self.device = device
        self.backends = backends.names
        self._backends = backends
        self.execution_slots = threads
        self._loader = loader
        self._residency = residency
        self._gauges = gauges
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics
        self._entries: dict[str, _Entry] = {}
        self._listeners: list[Listener] = []
        self._one_load = asyncio.Lock()
        self._working: set[asyncio.Task[object]] = set()
        self._closing = False
        self._log = structlog.stdlib.get_logger("models")
        metrics.show_load(lambda: self._waiting_and_running()[0], lambda: self._waiting_and_running()[1])

    def begin(self, call: IncomingCall, ended: Ended) -> Cancel:
        """Takes one call; `ended` is told later how it ended, unless it is cancelled.

        Raises:
            ModelUnavailable: MODEL_LOADING (UNAVAILABLE): the version is not in memory; another runner may have it.
            ModelError: MODEL_NOT_FOUND (NOT_FOUND): the version belongs to another tenant; MODEL_TASK_MISMATCH
                (INVALID_ARGUMENT): the model doesn't do what is asked of it.
            HeadraceError: What `begin` of the replica raises.
        """
        entry = self._entries.get(call.version_uid)
        if entry is not None and entry.tenant_id != call.tenant_id:
            raise ModelError("the model was not found", entry=catalogue.MODEL_NOT_FOUND)
        if entry is None or entry.loaded is None:
            self._metrics.misses += 1
            raise ModelUnavailable("the model is not in this runner's memory", entry=catalogue.MODEL_LOADING)
        self._metrics.hits += 1
        self._residency.touch(call.version_uid, self._clock.monotonic())
        if call.kind not in entry.loaded.replica.kinds:
            raise _other_task(entry.version)
        return entry.loaded.replica.begin(call, ended)

    def want(self, *, tenant_id: str, version: Version, ticket: str, ttl_s: float) -> None:
        """Notes that a gateway would like the version in memory for `ttl_s` seconds; 0 withdraws that.

        Starts loading it unless it is loading or loaded already. A version that failed is tried again after a pause.
        That it has failed, until then, or is loaded is told again: who wants it may not know. A want that renews one
        for what is loaded names the version and nothing else.
        """
        now = self._clock.monotonic()
        if ttl_s <= 0:
            self._residency.withdraw(version.uid)
            return
        if self._closing:
            return
        entry = self._entries.get(version.uid)
        if entry is None and not version.files:
            # A gateway renews what it believes to be here; told that it isn't, it sends all that a load needs.
            self._tell(ModelEvent(version_uid=version.uid, state=ModelState.MODEL_STATE_UNLOADED))
            return
        self._residency.want(version.uid, now + ttl_s)
        if entry is None:
            kept = Version()
            kept.CopyFrom(version)
            entry = _Entry(tenant_id, kept, ticket, ModelEvent(version_uid=version.uid))
            self._entries[version.uid] = entry
        entry.ticket = ticket or entry.ticket
        state = entry.event.state
        if entry.release_due:
            entry.release_due = False
            self._tell(entry.event)
        loaded = state == ModelState.MODEL_STATE_LOADED
        if (loaded and version.files) or (state == ModelState.MODEL_STATE_FAILED and entry.retry.pausing(now)):
            self._tell(entry.event)
        elif state in (ModelState.MODEL_STATE_UNSPECIFIED, ModelState.MODEL_STATE_FAILED):
            self._change(entry, ModelEvent(state=ModelState.MODEL_STATE_LOADING))
            self._spawn(self._load(entry), f"load-{version.model}:{version.version}")

    def release(self, version_uid: str) -> None:
        """Lets a version go that somebody wants out of memory; wants from before mean nothing any more.

        It takes no more calls, finishes those that it has, and is told as released; so is one that is not here, and at
        once one that is loading, which leaves when it has loaded.
        """
        self._residency.withdraw(version_uid)
        entry = self._entries.get(version_uid)
        if entry is None:
            self._tell(_released(version_uid))
        elif entry.event.state == ModelState.MODEL_STATE_LOADING:
            entry.release_due = True
            self._tell(_released(version_uid))
        elif entry.loaded is None:
            del self._entries[version_uid]
            self._tell(_released(version_uid))
        else:
            self._spawn(self._unload([version_uid], reason="released"), f"release-{entry.version.model}")

    def model_events(self) -> list[ModelEvent]:
        """The state of every model that is loading, loaded, or could not be loaded."""
        return [entry.event for entry in self._entries.values()]

    def add_listener(self, listener: Listener) -> None:
        """Calls `listener` with every change of a model's state from now on."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stops calling `listener`."""
        self._listeners.remove(listener)

    def backend_info(self) -> list[BackendInfo]:
        """What the backends are and can do, those that can't be used included."""
        return self._backends.introduction()

    def load(self) -> Heartbeat:
        """How busy this process is now."""
        now = self._clock.monotonic()
        loaded: list[tuple[str, ServingReplica]] = []
        for uid, entry in self._entries.items():
            if entry.loaded is not None:
                loaded.append((uid, entry.loaded.replica))
                if isinstance(entry.loaded.model, GenerativeModel | ComputesAside):
                    # Its process grows by what it is asked.
                    self._residency.measured(uid, entry.loaded.model.memory_bytes)
        return Heartbeat(
            queue_depth=sum(replica.waiting for _, replica in loaded),
            in_flight=sum(replica.in_flight for _, replica in loaded),
            models=most_recent(((self._residency.idle_s(uid, now), uid, replica) for uid, replica in loaded)),
            model_memory_bytes=self._residency.bytes_used,
            device_gauges=self._gauges.read(),
            backend_info=self._backends.state(),
        )

    async def run(self) -> None:
        """Looks every few seconds at what may leave, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """Unloads models that failed, are idle or surplus, gives memory back, forgets failures nobody asks about."""
        now = self._clock.monotonic()
        for entry in list(self._entries.values()):
            model = None if entry.loaded is None else entry.loaded.model
            if isinstance(model, MayFail) and model.failure is not None:
                self._lose(entry, model.failure)
        busy = self._busy()
        for uid in self._residency.idle(now, busy):
            self._spawn(self._unload([uid], reason="idle"), f"unload-{uid}")
        for uid in self._residency.surplus(now):
            entry = self._entries[uid]
            # The state of sequences is nowhere else; calls of other models go on elsewhere.
            keeps_state = entry.version.manifest.HasField("sequence") and uid in busy
            if not keeps_state:
                self._spawn(self._unload([uid], reason="surplus"), f"unload-{uid}")
        if self._loader.has_freed and not self._one_load.locked():
            serving = self._residency.called_at is not None and now - self._residency.called_at < _SERVING_S
            self._spawn(self._loader.give_back_memory(serving=serving), "give-back-memory")
        for uid, entry in list(self._entries.items()):
            failed = entry.event.state == ModelState.MODEL_STATE_FAILED
            if failed and entry.retry.stale(now):
                del self._entries[uid]

    async def close(self, *, grace_s: float | None = None) -> bool:
        """Stops loading, waits for executions that run, and frees every model. Safe to call twice.

        What `grace_s` and the result mean says `Replica.close`.
        """
        self._closing = True
        while self._working:
            working = list(self._working)
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        freed = await self._unload(list(self._entries), grace_s=grace_s)
        self._loader.close()
        return freed

    async def _load(self, entry: _Entry) -> None:
        started = self._clock.monotonic()
        progress = LoadProgress(size_bytes=entry.version.size_bytes)
        telling = self._spawn(self._tell_progress(entry, progress), f"progress-{entry.version.model}")
        try:
            lease = await self._loader.fetch(entry.version, lambda: entry.ticket, progress)
            try:
                async with self._one_load:
                    await self._make_room(await self._loader.memory_needed(entry.version, lease))
                    loaded = await self._loader.load(entry.tenant_id, entry.version, lease, progress)
            except BaseException:
                lease.release()
                raise
        except HeadraceError as error:
            self._failed(entry, error)
        except Exception:  # noqa: BLE001 - whatever it is, only this model fails
            self._log.exception("load failed", model=entry.version.model)
            self._failed(entry, ModelError("the model could not be loaded", entry=catalogue.MODEL_LOAD_FAILED))
        else:
            self._loaded(entry, loaded, self._clock.monotonic() - started)
            await self._make_room(0, required=False)
        finally:
            telling.cancel()
        if entry.release_due:
            self.release(entry.version.uid)

    async def _tell_progress(self, entry: _Entry, progress: LoadProgress) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            news = progress.news()
            loading = entry.event.state == ModelState.MODEL_STATE_LOADING
            if news is not None and loading and not entry.release_due:
                self._change(entry, ModelEvent(state=ModelState.MODEL_STATE_LOADING, progress=news))

    async def _make_room(self, needed_bytes: int, *, required: bool = True) -> None:
        chosen = self._residency.evict_for(needed_bytes, self._clock.monotonic(), self._busy())
        if chosen is not None:
            await self._unload(chosen, reason="space")
        elif required and needed_bytes > self._residency.bytes_max:
            raise ModelError(
                f"the model takes about {needed_bytes} bytes, the runner has {self._residency.bytes_max} for models",
                entry=catalogue.MODEL_TOO_LARGE_TO_LOAD,
            )
        elif required:
            raise DeviceError(
                "the runner's memory is taken by models that are in use",
                entry=catalogue.DEVICE_OUT_OF_MEMORY,
                context={"device": self.device.type},
            )

    def _loaded(self, entry: _Entry, loaded: LoadedReplica, load_s: float) -> None:
        entry.loaded = loaded
        entry.retry.succeeded()
        self._residency.add(entry.version.uid, loaded.memory_bytes, self._clock.monotonic())
        event = ModelEvent(
            version_uid=entry.version.uid,
            state=ModelState.MODEL_STATE_LOADED,
            memory_bytes=loaded.memory_bytes,
            execution_slots=loaded.replica.slots,
            backend=loaded.backend,
        )
        event.load_time.FromNanoseconds(int(load_s * 1e9))
        self._metrics.loads_succeeded.inc()
        self._metrics.load_seconds.observe(load_s)
        self._log.info(
            "model loaded",
            tenant_id=entry.tenant_id,
            model=entry.version.model,
            version=entry.version.version,
            memory_bytes=loaded.memory_bytes,
            load_s=round(load_s, 3),
        )
        if entry.release_due:
            # Nobody shall send it calls: it was told as released, and leaves at once.
            entry.event = event
        else:
            self._change(entry, event)
        self._show_memory()

    def _failed(self, entry: _Entry, error: HeadraceError) -> None:
        pause_s = entry.retry.failed(self._clock.monotonic(), retryable=error.retryable)
        if error.retryable:
            error.retry_after_s = pause_s
        error.context.update({"model": entry.version.model, "version": entry.version.version})
        status = to_status(error, new_request_id())
        self._metrics.loads_failed.inc()
        self._log.warning(
            "model failed",
            tenant_id=entry.tenant_id,
            model=entry.version.model,
            version=entry.version.version,
            reason=error.reason,
            message=error.message,
            retry_s=pause_s,
        )
        self._change(entry, ModelEvent(state=ModelState.MODEL_STATE_FAILED, status=status.SerializeToString()))

    def _lose(self, entry: _Entry, failure: HeadraceError) -> None:
        """Takes a model out of service that computes nothing any more; it is loaded anew if it is still wanted."""
        loaded, entry.loaded = entry.loaded, None
        version = entry.version
        self._residency.remove(version.uid)
        self._metrics.unloaded(tenant_id=entry.tenant_id, model=version.model, version=version.version)
        self._failed(entry, failure)
        self._show_memory()
        if loaded is not None:
            self._spawn(self._loader.unload(loaded), f"lose-{version.model}")

    async def _unload(self, uids: Iterable[str], *, reason: str = "", grace_s: float | None = None) -> bool:
        """Takes models out of service at once, then frees them; returns whether all are free."""
        released = reason == "released"
        leaving: list[LoadedReplica] = []
        for uid in uids:
            entry = self._entries.pop(uid, None)
            self._residency.remove(uid)
            if entry is None or entry.loaded is None:
                if released:
                    # It went for another reason first, and whoever asked waits to be told.
                    self._tell(_released(uid))
                continue
            leaving.append(entry.loaded)
            told = released and entry.release_due
            self._change(entry, ModelEvent(state=ModelState.MODEL_STATE_UNLOADED, released=released and not told))
            version = entry.version
            self._metrics.unloaded(tenant_id=entry.tenant_id, model=version.model, version=version.version)
            if reason:
                self._metrics.evicted(reason)
            self._log.info("model unloaded", tenant_id=entry.tenant_id, model=version.model, reason=reason or "closing")
        self._show_memory()
        return all(await asyncio.gather(*(self._loader.unload(loaded, grace_s=grace_s) for loaded in leaving)))

    def _change(self, entry: _Entry, event: ModelEvent) -> None:
        event.version_uid = entry.version.uid
        entry.event = event
        self._tell(event)

    def _tell(self, event: ModelEvent) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    def _busy(self) -> set[str]:
        return {uid for uid, entry in self._entries.items() if entry.loaded is not None and entry.loaded.replica.busy}

    def _waiting_and_running(self) -> tuple[int, int]:
        replicas = [entry.loaded.replica for entry in self._entries.values() if entry.loaded is not None]
        return sum(replica.waiting for replica in replicas), sum(replica.running for replica in replicas)

    def _show_memory(self) -> None:
        self._metrics.model_memory_bytes.set(self._residency.bytes_used)
        self._metrics.models_loaded.set(sum(entry.loaded is not None for entry in self._entries.values()))

    def _spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[object]:
        task = self._tasks.spawn(work, name=name)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task


def _other_task(version: Version) -> ModelError:
    return ModelError(
        f"{version.model}:{version.version} doesn't generate text",
        entry=catalogue.MODEL_TASK_MISMATCH,
        context={"model": version.model, "task": ModelTask.Name(version.manifest.task)},
    )


def _released(version_uid: str) -> ModelEvent:
    return ModelEvent(version_uid=version_uid, state=ModelState.MODEL_STATE_UNLOADED, released=True)
