"""Fetches an artefact and makes a replica of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog

from headrace.registry.v1.models_pb2 import Version
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import DeadlineError, DeviceError, HeadraceError, ModelError
from headrace_runner.artifacts.disk_cache import ArtifactLease, DiskCache
from headrace_runner.artifacts.source import ArtifactSource
from headrace_runner.backends.contract import EstimatesMemory, LoadedModel
from headrace_runner.backends.discovery import BackendSet, backend_name
from headrace_runner.backends.generation import ComputesAside, GenerativeModel
from headrace_runner.execution.generation.generative_replica import GenerativeReplica
from headrace_runner.execution.generation.process_share import ProcessShare
from headrace_runner.execution.policy import ExecutionLimits, SchedulingPolicy, policy_of, threads_of
from headrace_runner.execution.replica import Replica
from headrace_runner.execution.sequence_policy import SequencePolicy, sequence_policy_of
from headrace_runner.execution.serving import ServingReplica
from headrace_runner.execution.tenant_use import TenantUse
from headrace_runner.loading.fetch_pace import FetchPace
from headrace_runner.loading.heap import Heap
from headrace_runner.loading.load_priority import LoadPriority
from headrace_runner.loading.load_progress import LoadProgress
from headrace_runner.loading.load_thread import LoadThread
from headrace_runner.loading.manifest_check import check_generation, signature_of
from headrace_runner.loading.warm_up import warm_up, warm_up_generation
from headrace_runner.metrics import ReplicaMetrics, RunnerMetrics
from headrace_runner.processing.processing import Processing, processing_of
from headrace_runner.tensors.infer_response import ResponseWriter
from headrace_runner.tensors.signature import Signature

# A model in memory takes more than its file; what it really takes is measured after the load.
_ESTIMATE_RATIO = 1.25
# Other work moves the process's memory while a model loads; the measurement counts only within these bounds.
_MEASURED_RATIO_MAX = 4
_MEASURED_SLACK_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class LoadedReplica:
    """A replica and what it holds.

    Attributes:
        replica: Answers calls.
        model: What it computes with.
        backend: Name of what runs it.
        memory_bytes: Memory that the model takes, as measured.
        lease: Keeps the artefact on disk while the model is loaded.
    """

    replica: ServingReplica
    model: LoadedModel | GenerativeModel
    backend: str
    memory_bytes: int
    lease: ArtifactLease


class _TensorModel(NamedTuple):
    """A model that computes tensors, as it was loaded."""

    model: LoadedModel
    signature: Signature
    sequences: SequencePolicy | None
    memory_bytes: int
    processing: Processing | None = None

    def close(self) -> None:
        self.model.close()


class ModelLoader:
    """Loads models in a thread of its own, one at a time, so that their memory can be told apart.

    Args:
        cache: Artefacts on disk.
        source: Artefacts elsewhere.
        pace: How fast they are fetched.
        heap: Tells what models take.
        backends: What models are loaded with.
        limits: Bounds of replicas.
        load_timeout_s: How long one load may take once the artefact is on disk.
        warm_up_timeout_s: How long the first executions may take; they are part of the load.

    Attributes:
        has_freed: Whether loads or unloads have freed memory that has not been given back.
    """

    def __init__(
        self,
        *,
        cache: DiskCache,
        source: ArtifactSource,
        pace: FetchPace,
        heap: Heap,
        backends: BackendSet,
        limits: ExecutionLimits,
        load_timeout_s: float,
        warm_up_timeout_s: float,
        clock: Clock,
        metrics: RunnerMetrics,
    ) -> None:
        self._cache = cache
        self._source = source
        self._pace = pace
        self._backends = backends
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._load_timeout_s = load_timeout_s
        self._warm_up_timeout_s = warm_up_timeout_s
        self._heap = heap
        self._priority = LoadPriority()
        self.has_freed = False
        self._use = TenantUse()
        self._thread = LoadThread(timeout_s=load_timeout_s)
        self._log = structlog.stdlib.get_logger("loading")

    async def fetch(self, version: Version, ticket: Callable[[], str], progress: LoadProgress) -> ArtifactLease:
        """Makes sure that the version's artefact is on disk. `ticket` gives the newest ticket for it.

        Raises:
            HeadraceError: BACKEND_MISSING or MODEL_FORMAT_UNSUPPORTED before anything is fetched, or what fetching
                raises.
        """
        self._backends.choose(version.manifest)

        async def read_from(path: str, offset: int) -> AsyncGenerator[bytes, None]:
            async with aclosing(self._source.read(ticket=ticket(), path=path, offset=offset)) as parts:
                async for part in parts:
                    offset += len(part)
                    progress.fetching(path, offset)
                    yield part
                    pause_s = self._pace.pause_s(len(part), self._clock.monotonic())
                    if pause_s:
                        await asyncio.sleep(pause_s)

        lease = await self._cache.lease(version.files, read_from)
        progress.fetched()
        return lease

    async def memory_needed(self, version: Version, lease: ArtifactLease) -> int:
        """Bytes, about, that a fetched artefact will take in memory.

        Raises:
            HeadraceError: Its backend can't load it.
        """
        backend = self._backends.choose(version.manifest)
        if not isinstance(backend, EstimatesMemory):
            return int(version.size_bytes * _ESTIMATE_RATIO)
        files = [file.path for file in version.files]
        return await asyncio.to_thread(backend.memory_needed, lease.folder, files, version.manifest)

    async def load(
        self, tenant_id: str, version: Version, lease: ArtifactLease, progress: LoadProgress
    ) -> LoadedReplica:
        """Loads a fetched artefact and runs it once. The lease belongs to the result, or stays the caller's on errors.

        Raises:
            HeadraceError: MODEL_LOAD_FAILED, MODEL_LOAD_TIMEOUT, MODEL_MANIFEST_MISMATCH, DEVICE_OUT_OF_MEMORY and
                others.
        """
        policy = policy_of(version.manifest, self._limits)
        threads = threads_of(version.manifest, policy, self._limits)
        try:
            loaded = await self._thread.run(
                version.uid, lambda: self._load_aside(version, lease, threads, progress), lambda result: result.close()
            )
        except TimeoutError:
            raise DeadlineError(
                f"the model was not loaded within {self._load_timeout_s:g} s, which is the limit of this runner",
                entry=catalogue.MODEL_LOAD_TIMEOUT,
            ) from None
        finally:
            self.has_freed = True
        backend = backend_name(version.manifest)
        if isinstance(loaded, GenerativeModel):
            replica = await self._generative(tenant_id, version, loaded, policy, threads)
            return LoadedReplica(replica, loaded, backend, loaded.memory_bytes, lease)
        replica = self._computing(tenant_id, version, loaded, policy)
        return LoadedReplica(replica, loaded.model, backend, loaded.memory_bytes, lease)

    def _computing(
        self, tenant_id: str, version: Version, loaded: _TensorModel, policy: SchedulingPolicy
    ) -> ServingReplica:
        if loaded.processing is not None:
            policy = loaded.processing.bounded(policy)
        return Replica(
            name=f"{version.model}:{version.version}",
            tenant_id=tenant_id,
            use=self._use,
            model=loaded.model,
            signature=loaded.signature,
            writer=ResponseWriter(
                model_name=version.model,
                model_version=str(version.version),
                labels=version.manifest.class_labels,
                batched=version.manifest.batched,
            ),
            policy=policy,
            batched=version.manifest.batched,
            clock=self._clock,
            metrics=self._counts(tenant_id, version),
            sequences=loaded.sequences,
            processing=loaded.processing,
        )

    async def _generative(
        self, tenant_id: str, version: Version, model: GenerativeModel, policy: SchedulingPolicy, threads: int
    ) -> ServingReplica:
        try:
            name = f"{version.model}:{version.version}"
            await warm_up_generation(model, name, timeout_s=self._warm_up_timeout_s)
        except BaseException:
            model.close()
            raise
        share = None
        if isinstance(model, ComputesAside):
            share = ProcessShare(
                tenant_id=tenant_id,
                use=self._use,
                process_id=lambda: model.process_id,
                threads=threads,
                may_compete_again=self._priority.allowed,
            )
        return GenerativeReplica(
            model_name=version.model,
            model_version=str(version.version),
            model=model,
            policy=policy,
            # How long an execution may take by default says nothing about a text, whose end is its deadline.
            timeout_s=version.manifest.execution.timeout.ToTimedelta().total_seconds(),
            clock=self._clock,
            metrics=self._counts(tenant_id, version),
            seeds=partial(secrets.randbits, 32),
            share=share,
        )

    def _counts(self, tenant_id: str, version: Version) -> ReplicaMetrics:
        return self._metrics.replica(
            tenant_id=tenant_id,
            model=version.model,
            version=version.version,
            backend=backend_name(version.manifest),
        )

    async def unload(self, loaded: LoadedReplica, *, grace_s: float | None = None) -> bool:
        """Frees a replica once its last execution has ended; `Replica.close` says what the rest means."""
        if not await loaded.replica.close(grace_s=grace_s):
            return False
        loaded.lease.release()
        self.has_freed = True
        return True

    async def give_back_memory(self, *, serving: bool) -> None:
        """Returns to the system what loads and unloads have freed, as far as it may wait no longer."""
        # Set again by a load that ends meanwhile.
        self.has_freed = False
        if not await asyncio.to_thread(self._heap.give_back, serving=serving):
            self.has_freed = True

    def close(self) -> None:
        """Takes no more loads; one that is under way is not waited for, and its model is freed when it ends."""
        self._thread.close()

    def _load_aside(
        self, version: Version, lease: ArtifactLease, threads: int, progress: LoadProgress
    ) -> _TensorModel | GenerativeModel:
        progress.loads(self._backends.choose(version.manifest), lease.folder)
        with self._priority.lowered():
            loaded = self._load_blocking(version, lease, threads)
        if isinstance(loaded, GenerativeModel) or not version.manifest.HasField("processing"):
            return loaded
        # Reading a tokenizer keeps all other threads of the process from running, so it must not give way itself.
        return self._with_processing(version, lease, loaded)

    def _with_processing(self, version: Version, lease: ArtifactLease, loaded: _TensorModel) -> _TensorModel:
        before = self._heap.used_bytes()
        try:
            processing = processing_of(version.manifest, loaded.signature, lease.folder)
        except BaseException:
            loaded.close()
            raise
        return loaded._replace(
            signature=processing.extended(loaded.signature),
            memory_bytes=loaded.memory_bytes + max(0, self._heap.used_bytes() - before),
            processing=processing,
        )

    def _load_blocking(self, version: Version, lease: ArtifactLease, threads: int) -> _TensorModel | GenerativeModel:
        name = f"{version.model}:{version.version}"
        backend = self._backends.choose(version.manifest)
        before = self._heap.used_bytes()
        try:
            model = backend.load(
                lease.folder,
                [file.path for file in version.files],
                version.manifest,
                self._backends.device_type,
                threads,
            )
            try:
                if isinstance(model, GenerativeModel):
                    check_generation(version.manifest)
                    return model
                signature = signature_of(version.manifest, model)
                sequences = sequence_policy_of(
                    version.manifest, signature, model=name, bytes_max=self._limits.sequence_bytes_max
                )
            except BaseException:
                model.close()
                raise
        except HeadraceError:
            raise
        except MemoryError:
            raise DeviceError(
                "the runner has no memory left to load the model",
                entry=catalogue.DEVICE_OUT_OF_MEMORY,
                context={"device": self._backends.device_type},
            ) from None
        except Exception:  # noqa: BLE001 - a backend may raise anything
            self._log.exception("backend failed to load a model", model=name)
            raise ModelError("the model could not be loaded", entry=catalogue.MODEL_LOAD_FAILED) from None
        samples = version.manifest.execution.warm_up
        warm_up(model, signature, samples, name, timeout_s=self._warm_up_timeout_s)
        grown = min(self._heap.used_bytes() - before, _MEASURED_RATIO_MAX * version.size_bytes + _MEASURED_SLACK_BYTES)
        return _TensorModel(model, signature, sequences, model.memory_bytes or max(grown, version.size_bytes))
