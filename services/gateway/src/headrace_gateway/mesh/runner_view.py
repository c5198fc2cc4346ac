"""What is shown of the runners to people: MeshService's messages, from sessions and their reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.clock import Clock
from headrace_common.rpc_status import from_status_bytes
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.isolation import TENANT_LABEL
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.model_access import Policies, sees

Breakers = Callable[[RunnerSession, str], gateway_pb2.BreakerState.ValueType]

_OF_OTHERS = ("in_flight", "queue_depth", "model_memory_bytes", "device_gauges")
_OF_OTHERS_PER_MODEL = ("queue_depth", "in_flight")


class RunnerView:
    """Describes runners as they are now.

    Args:
        runners: Those that have a session.
        known: Finds the tenant, name and number of a version by its uid.
        breaker_state: Whether this gateway sends a runner calls of a version that is loaded there.
    """

    def __init__(
        self,
        *,
        runners: Iterable[RunnerSession],
        known: Callable[[str], CatalogVersion | None],
        breaker_state: Breakers,
        clock: Clock,
    ) -> None:
        self._runners = runners
        self._known = known
        self._breaker_state = breaker_state
        self._clock = clock

    def all(self) -> list[gateway_pb2.Runner]:
        """Each runner, ordered by id, with the models of all tenants: what operators see."""
        return [self._describe(session) for session in sorted(self._runners, key=lambda session: session.id)]

    def for_tenant(self, tenant_id: str, *, policies: Policies = ()) -> list[gateway_pb2.Runner]:
        """Each runner that may be its, ordered by id, with one tenant's models, and nothing that tells of others."""
        runners = [runner for runner in self.all() if runner.labels.get(TENANT_LABEL, tenant_id) == tenant_id]
        for runner in runners:
            own = [model for model in runner.models if model.tenant_id == tenant_id and sees(policies, model.model)]
            for field in (*_OF_OTHERS, "models"):
                runner.ClearField(field)
            for model in own:
                for field in _OF_OTHERS_PER_MODEL:
                    model.ClearField(field)
            for backend in runner.backend_info:
                backend.ClearField("metrics")
            runner.models.extend(own)
        return runners

    def _describe(self, session: RunnerSession) -> gateway_pb2.Runner:
        hello, heartbeat = session.hello, session.heartbeat
        runner = gateway_pb2.Runner(
            id=session.id,
            name=hello.runner_name,
            state=session.state,
            device_type=hello.device.type,
            device_name=hello.device.name,
            device_gauges=heartbeat.device_gauges,
            backends=hello.backends,
            backend_info=_backends(hello, heartbeat),
            in_flight=session.calls.in_flight,
            queue_depth=heartbeat.queue_depth,
            model_memory_bytes=heartbeat.model_memory_bytes,
            labels=hello.labels,
        )
        runner.connect_time.FromDatetime(session.connected_at)
        runner.heartbeat_age.FromNanoseconds(int((self._clock.monotonic() - session.heartbeat_at) * 1e9))
        loads = {load.version_uid: load for load in heartbeat.models}
        for event in session.models.values():
            version = self._known(event.version_uid)
            if version is not None:
                load = loads.get(event.version_uid)
                runner.models.append(self._model(session, version, event, load or mesh_pb2.ModelLoad()))
        return runner

    def _model(
        self, session: RunnerSession, version: CatalogVersion, event: mesh_pb2.ModelEvent, load: mesh_pb2.ModelLoad
    ) -> gateway_pb2.RunnerModel:
        model = gateway_pb2.RunnerModel(
            tenant_id=version.tenant_id,
            model=version.model,
            version=version.version,
            version_uid=version.uid,
            state=event.state,
            memory_bytes=event.memory_bytes,
            load_time=event.load_time if event.HasField("load_time") else None,
            load_progress=event.progress if event.HasField("progress") else None,
            queue_depth=load.queue_depth,
            in_flight=load.in_flight,
        )
        if event.state == gateway_pb2.MODEL_STATE_LOADED:
            model.breaker = self._breaker_state(session, version.uid)
        elif event.state == gateway_pb2.MODEL_STATE_FAILED:
            model.error_reason = from_status_bytes(event.status).reason
        return model


def lasting(runner: gateway_pb2.Runner) -> bytes:
    """What of a runner is worth telling again when it changes: everything but numbers that change all the time."""
    kept = gateway_pb2.Runner()
    kept.CopyFrom(runner)
    for field in (*_OF_OTHERS, "heartbeat_age"):
        kept.ClearField(field)
    for model in kept.models:
        for field in _OF_OTHERS_PER_MODEL:
            model.ClearField(field)
    for backend in kept.backend_info:
        backend.ClearField("metrics")
    return kept.SerializeToString(deterministic=True)


def _backends(hello: mesh_pb2.Hello, heartbeat: mesh_pb2.Heartbeat) -> list[gateway_pb2.BackendInfo]:
    """Health and metrics by the last heartbeat, capabilities by the hello. Runners that report neither have none."""
    capabilities = {backend.name: backend.capabilities for backend in hello.backend_info}
    found: list[gateway_pb2.BackendInfo] = []
    for reported in heartbeat.backend_info or hello.backend_info:
        backend = gateway_pb2.BackendInfo()
        backend.CopyFrom(reported)
        if reported.name in capabilities:
            backend.capabilities.CopyFrom(capabilities[reported.name])
        found.append(backend)
    return found
