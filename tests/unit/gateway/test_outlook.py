"""Whether a call that no replica takes now waits, or with what it fails."""

from __future__ import annotations

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import manifest_pb2, models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError, RouteUnavailable
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.rpc_status import to_status
from headrace_common.testing import FakeClock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.outlook import why_not_wait
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession

PROTO = models_pb2.Version(uid="u", model="m", version=1, manifest=manifest_pb2.Manifest(backend="onnxruntime"))
VERSION = CatalogVersion(tenant_id="t", uid="u", model="m", version=1, version_text="1", proto=PROTO)


class Runners:
    def __init__(self) -> None:
        self.directory = RunnerDirectory(clock=FakeClock())

    def join(self, name: str, *, loaded: bool = False, failed: HeadraceError | None = None) -> RunnerSession:
        session = RunnerSession(
            hello=mesh_pb2.Hello(runner_name=name, boot_uuid="1", backends=["onnxruntime"]),
            limits=LaneLimits(),
            budget=ByteBudget(total_bytes=1),
            clock=FakeClock(),
            load=LoopLoad(),
            changed=self.directory.changed,
        )
        self.directory.add(session)
        if loaded:
            event = mesh_pb2.ModelEvent(version_uid="u", state=gateway_pb2.MODEL_STATE_LOADED)
            session.on_event(mesh_pb2.RunnerEvent(model=event))
        if failed is not None:
            status = to_status(failed).SerializeToString()
            event = mesh_pb2.ModelEvent(version_uid="u", state=gateway_pb2.MODEL_STATE_FAILED, status=status)
            session.on_event(mesh_pb2.RunnerEvent(model=event))
        return session

    def why(self, *, patient: bool = True) -> str | None:
        found = why_not_wait(VERSION, self.directory, patient=patient)
        return found.reason if found is not None else None


async def test_waits_while_a_runner_may_still_load() -> None:
    runners = Runners()
    runners.join("a")
    runners.join("b", failed=ModelError("bad", entry=catalogue.MODEL_LOAD_FAILED))
    assert runners.why(patient=False) is None


async def test_waits_for_a_place_at_replicas_that_are_full() -> None:
    runners = Runners()
    runners.join("a", loaded=True)
    assert runners.why(patient=False) is None


async def test_waits_for_any_runner_only_for_a_while() -> None:
    runners = Runners()
    assert runners.why() is None
    assert runners.why(patient=False) == "RUNNER_NOT_AVAILABLE"


async def test_load_that_failed_for_good_is_told_as_such_and_a_passing_cause_as_itself() -> None:
    runners = Runners()
    runners.join("a", failed=ModelError("bad", entry=catalogue.MODEL_FILE_INVALID))
    assert runners.why() == "MODEL_LOAD_FAILED"
    runners.join("b", failed=RouteUnavailable("away", entry=catalogue.REGISTRY_UNAVAILABLE))
    assert runners.why() == "REGISTRY_UNAVAILABLE"


async def test_lost_session_is_no_replica_from_the_moment_it_closes() -> None:
    runners = Runners()
    session = runners.join("a", loaded=True)
    assert runners.directory.replicas("u") == (session,)
    session.close()
    assert runners.directory.replicas("u") == ()
