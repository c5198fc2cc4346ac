"""A gateway's placement with runners that a test speaks for."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1 import manifest_pb2, models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import ModelError
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.rpc_status import to_status
from headrace_common.testing import FakeClock
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.isolation import Isolation
from headrace_gateway.mesh.placement import Wants
from headrace_gateway.mesh.runner_session import RunnerSession
from support.placement import placement

LOADING, LOADED, FAILED, UNLOADED = (
    gateway_pb2.MODEL_STATE_LOADING,
    gateway_pb2.MODEL_STATE_LOADED,
    gateway_pb2.MODEL_STATE_FAILED,
    gateway_pb2.MODEL_STATE_UNLOADED,
)
KEEP_S = 300.0


class PlacementMesh:
    """A gateway's placement, and the sessions of runners that a test speaks for."""

    def __init__(
        self,
        *,
        clock: FakeClock | None = None,
        catalog: Catalog | None = None,
        isolation: Isolation | None = None,
        **policy: Any,
    ) -> None:
        self.clock = clock or FakeClock()
        self.catalog = catalog or Catalog()
        if catalog is None:
            self.catalog.replace([])
        self.directory = RunnerDirectory(clock=self.clock, isolation=isolation)
        self.wants = Wants(
            catalog=self.catalog,
            directory=self.directory,
            sign_ticket=lambda v: f"ticket {v.uid}",
            clock=self.clock,
            policy=placement(keep_s=KEEP_S, **policy),
        )

    def register(self, number: int = 1, *, replicas: int = 0, model: str = "m", **manifest: Any) -> CatalogVersion:
        """Makes version `number` of a model known; its uid is `uid-<number>`, with other models' names before it."""
        uid = f"uid-{number}" if model == "m" else f"{model}-{number}"
        self.catalog.apply([entry(uid, number, self.clock, replicas=replicas, model=model, **manifest)])
        found = self.catalog.by_uid(uid)
        assert found is not None
        return found

    def join(
        self,
        name: str,
        *,
        device: str = "cpu",
        backend: str = "onnxruntime",
        loaded: tuple[str, ...] = (),
        labels: dict[str, str] | None = None,
    ) -> RunnerSession:
        session = RunnerSession(
            hello=mesh_pb2.Hello(
                runner_name=name,
                boot_uuid=f"boot-{name}",
                device=mesh_pb2.Device(type=device),
                backends=[backend],
                labels=labels,
            ),
            limits=LaneLimits(),
            budget=ByteBudget(total_bytes=1),
            clock=self.clock,
            load=LoopLoad(),
            changed=self.directory.changed,
        )
        for uid in loaded:
            tell(session, uid, LOADED)
        self.directory.add(session)
        return session

    def pass_time(self, seconds: float, beat: tuple[RunnerSession, ...] = ()) -> None:
        """Lets time pass a second at a time; runners in `beat` go on saying what they said last."""
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            for session in beat:
                session.on_event(mesh_pb2.RunnerEvent(heartbeat=session.heartbeat))
            self.wants.refresh()


def entry(uid: str, number: int, clock: FakeClock, *, replicas: int, model: str, **manifest: Any) -> CatalogEntry:
    created = Timestamp()
    created.FromDatetime(clock.now())
    version = models_pb2.Version(
        uid=uid,
        model=model,
        version=number,
        state=models_pb2.VERSION_STATE_READY,
        create_time=created,
        manifest=manifest_pb2.Manifest(
            backend="onnxruntime", execution=manifest_pb2.ExecutionPolicy(replicas=replicas), **manifest
        ),
    )
    return CatalogEntry(tenant_id="t", version=version)


def report(session: RunnerSession, uid: str, *, idle_s: float = 0.0, calls: int = 1, **load: int) -> None:
    """The runner's next heartbeat tells of one model."""
    load_of_model = mesh_pb2.ModelLoad(version_uid=uid, idle_ms=int(idle_s * 1000), calls=calls, **load)
    session.on_event(mesh_pb2.RunnerEvent(heartbeat=mesh_pb2.Heartbeat(models=[load_of_model])))


def commands(session: RunnerSession) -> list[mesh_pb2.Want]:
    found: list[mesh_pb2.Want] = []
    while not session.commands.empty():
        found.append(session.commands.get_nowait().want)
    return found


def asked(*sessions: RunnerSession) -> list[str]:
    """Names of the runners that were asked for something since the last look."""
    return [session.hello.runner_name for session in sessions if commands(session)]


def tell(session: RunnerSession, uid: str, state: gateway_pb2.ModelState.ValueType) -> None:
    status = to_status(ModelError("no", entry=catalogue.MODEL_LOAD_FAILED)).SerializeToString()
    event = mesh_pb2.ModelEvent(version_uid=uid, state=state, status=status, execution_slots=1)
    session.on_event(mesh_pb2.RunnerEvent(model=event))


def tell_released(session: RunnerSession, uid: str) -> None:
    event = mesh_pb2.ModelEvent(version_uid=uid, state=gateway_pb2.MODEL_STATE_UNLOADED, released=True)
    session.on_event(mesh_pb2.RunnerEvent(model=event))
