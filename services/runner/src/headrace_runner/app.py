"""Puts the runner together, runs it, and takes it apart again."""

from __future__ import annotations

import asyncio
import sys
from math import inf

import grpc.aio
import structlog

from headrace_common import catalogue
from headrace_common.allocator import keep_freed_memory
from headrace_common.clock import Clock, SystemClock
from headrace_common.errors import ConfigError
from headrace_common.grpc_client import Caller, open_channel
from headrace_common.lanes import LANE_OPTIONS, ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.metrics import Metrics
from headrace_common.ready_file import write_ready_file
from headrace_common.secrets import read_secret
from headrace_common.service_main import Stop
from headrace_common.tasks import TaskGuard
from headrace_common.tls import Tls, TlsMetrics
from headrace_runner.artifacts.disk_cache import DiskCache
from headrace_runner.artifacts.registry_source import RegistrySource
from headrace_runner.artifacts.source import ArtifactSource
from headrace_runner.backends.discovery import BackendSet, discover
from headrace_runner.backends.health import HealthChecks
from headrace_runner.backends.reports import BackendReports
from headrace_runner.config import RunnerSettings
from headrace_runner.device import available_cpus, memory_limit_bytes, open_device
from headrace_runner.execution.policy import ExecutionLimits
from headrace_runner.loading.fetch_pace import FetchPace
from headrace_runner.loading.heap import HEAPS, Heap, kept_serving_bytes
from headrace_runner.loading.model_loader import ModelLoader
from headrace_runner.loading.residency import Residency
from headrace_runner.mesh.client import MeshClient
from headrace_runner.metrics import RunnerMetrics
from headrace_runner.model_host import ModelHost

_SWITCH_S = 0.0005


async def run(settings: RunnerSettings, stop: Stop) -> None:
    """Serves until `stop` is requested or a gateway asks the runner to leave; then drains.

    Raises:
        ConfigError: A required setting is missing.
        StorageError: The artefact cache can't be used.
    """
    for field in ("gateways", "registry_address"):
        if not getattr(settings, field):
            variable = settings.variable(field)
            raise ConfigError(
                f"{variable} must be set", entry=catalogue.SETTING_MISSING, context={"variable": variable}
            )
    # Threads of executions and the event loop take turns in Python; the usual 5 ms are longer than most calls take.
    sys.setswitchinterval(_SWITCH_S)
    # Otherwise the C library hands memory back whenever a model leaves it free, with everything waiting.
    keep_freed_memory(kept_serving_bytes(memory_limit_bytes()), heaps=HEAPS)
    clock = SystemClock()
    metrics = Metrics()
    tls = Tls.from_settings(settings)
    TlsMetrics(kept={"internal": tls}, registry=metrics.registry)
    registry = open_channel(settings.registry_address, tls=tls)
    log = structlog.stdlib.get_logger("runner")
    # Draining and closing share one grace.
    leave_by_s = inf
    async with TaskGuard() as guard:
        host = build_host(
            settings, source=RegistrySource(caller=Caller(channel=registry)), tasks=guard, clock=clock, metrics=metrics
        )
        load = LoopLoad()
        mesh = _build_mesh(settings, host, tls, clock, load)
        try:
            guard.spawn(host.run(), name="models")
            guard.spawn(mesh.run(), name="mesh")
            guard.spawn(load.run(), name="loop load")
            if tls is not None:
                guard.spawn(tls.run(), name="certificates")
            guard.spawn(_report_ready(settings, mesh, metrics.start(settings.metrics_address)), name="ready")
            guard.spawn(_leave_when_asked(mesh, stop), name="drain-request")
            await stop.wait_or_failure(guard)
            leave_by_s = clock.monotonic() + settings.shutdown_grace_s
            if not await mesh.drain(settings.shutdown_grace_s):
                log.warning("gateways still had calls here after the grace time")
        finally:
            grace_s = min(settings.shutdown_grace_s, max(0.0, leave_by_s - clock.monotonic()))
            await host.close(grace_s=grace_s)
            await registry.close()
            await metrics.close()


def build_host(
    settings: RunnerSettings, *, source: ArtifactSource, tasks: TaskGuard, clock: Clock, metrics: Metrics
) -> ModelHost:
    """Makes the model host with everything below it.

    Raises:
        ConfigError: SETTING_INVALID: no installed backend can compute on the device.
    """
    threads = settings.threads or available_cpus()
    device, gauges = open_device(settings.device, threads=threads, clock=clock)
    shown = RunnerMetrics(registry=metrics.registry)
    cache = DiskCache(root=settings.cache_dir, bytes_max=settings.cache_bytes_max, metrics=shown)
    cache.open()
    backends = BackendSet(backends=discover(settings.backends_disabled), device_type=settings.device)
    backends.require_one()
    for name, reason in backends.unavailable.items():
        structlog.stdlib.get_logger("backends").info("backend is not used", backend=name, reason=reason)
    health = HealthChecks(backends=backends.usable, device_type=settings.device)
    shown.show_backends(backends.names, lambda name: health.of(name).healthy)
    residency = Residency(
        bytes_max=settings.model_memory_bytes_max or (device.memory_bytes or memory_limit_bytes()) // 2,
        stay_min_s=settings.model_stay_min_s,
        idle_max_s=settings.model_idle_max_s,
    )
    loader = ModelLoader(
        cache=cache,
        source=source,
        heap=Heap(memory_bytes=memory_limit_bytes()),
        pace=FetchPace(bytes_per_s=settings.fetch_bytes_per_s, called_at=lambda: residency.called_at),
        backends=backends,
        limits=ExecutionLimits(
            threads=threads,
            waiting_max=settings.queue_calls_max,
            waiting_bytes_max=settings.queue_bytes_max,
            ageing_s=settings.queue_ageing_s,
            sequence_bytes_max=settings.sequence_bytes_max,
            timeout_s=settings.execution_timeout_s,
        ),
        load_timeout_s=settings.model_load_timeout_s,
        warm_up_timeout_s=settings.model_warm_up_timeout_s,
        clock=clock,
        metrics=shown,
    )
    tasks.spawn(health.run(), name="backend health")
    return ModelHost(
        loader=loader,
        residency=residency,
        device=device,
        backends=BackendReports(backends=backends, health=health.of, metrics=shown.of_backend),
        threads=threads,
        gauges=gauges,
        tasks=tasks,
        clock=clock,
        metrics=shown,
    )


def _build_mesh(settings: RunnerSettings, host: ModelHost, tls: Tls | None, clock: Clock, load: LoopLoad) -> MeshClient:
    token_file = settings.join_token_file
    if token_file is not None:
        # Read again for each session; one that can't be read at all stops the start.
        read_secret(token_file)
    limits = LaneLimits(message_bytes_max=settings.message_bytes_max)

    def open_lane(address: str, name: str) -> grpc.aio.Channel:
        # Certificates are for names, and one name may stand for many gateways.
        known_as = [("grpc.ssl_target_name_override", name)] if tls is not None and name else []
        return open_channel(address, tls=tls, own_connection=True, options=[*LANE_OPTIONS, *known_as])

    return MeshClient(
        targets=settings.gateways,
        open_channel=open_lane,
        join_token=lambda: read_secret(token_file) if token_file is not None else None,
        name=settings.name,
        labels=settings.labels,
        host=host,
        limits=limits,
        budget=ByteBudget(total_bytes=max(settings.transfer_bytes_max, limits.message_bytes_max)),
        clock=clock,
        load=load,
    )


async def _report_ready(settings: RunnerSettings, mesh: MeshClient, metrics_url: str) -> None:
    await mesh.registered.wait()
    await asyncio.to_thread(write_ready_file, settings.ready_file, name=settings.name, metrics=metrics_url)


async def _leave_when_asked(mesh: MeshClient, stop: Stop) -> None:
    await mesh.drain_requested.wait()
    stop.request()
