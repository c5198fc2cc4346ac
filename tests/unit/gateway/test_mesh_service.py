"""What callers see of the runners; the directory and its sessions are the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from headrace.gateway.v1 import mesh_pb2 as pb
from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1 import manifest_pb2, models_pb2
from headrace.runner.internal.v1 import mesh_pb2 as runner_pb2
from headrace_common.errors import HeadraceError
from headrace_common.grpc_server import Call
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.principal import Principal
from headrace_common.testing import FakeClock
from headrace_gateway.catalog import Catalog
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.runner_view import RunnerView
from headrace_gateway.mesh_service import MeshService
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.open_inference import OpenInference
from headrace_gateway.readiness import Readiness
from inference import open_inference_pb2 as oip


def as_caller(tenant_id: str, *roles: str) -> Call:
    principal = Principal(tenant_id=tenant_id, roles=frozenset(roles or ("viewer",)))
    return Call(
        method="/x",
        metadata={},
        request_id="r",
        trace_id=None,
        deadline_s=None,
        context=cast("Any", None),
        caller=principal,
    )


OPERATOR = as_caller("default", "admin")
ACME = as_caller("acme")


def catalog_entry(
    tenant_id: str, model: str, *, uid: str, version: int = 1, backend: str = "onnxruntime"
) -> CatalogEntry:
    manifest = manifest_pb2.Manifest(
        format=manifest_pb2.ARTIFACT_FORMAT_ONNX,
        backend=backend,
        inputs=[manifest_pb2.TensorSpec(name="x", datatype="FP32", shape=[-1, 3])],
        outputs=[manifest_pb2.TensorSpec(name="y", datatype="INT64", shape=[-1])],
    )
    return CatalogEntry(
        tenant_id=tenant_id,
        version=models_pb2.Version(
            model=model, version=version, uid=uid, state=models_pb2.VERSION_STATE_READY, manifest=manifest
        ),
    )


class Mesh:
    """A catalogue of two tenants, and a directory that runners join."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.catalog = Catalog()
        self.catalog.replace(
            [
                catalog_entry("acme", "magika", uid="a1"),
                catalog_entry("acme", "magika", uid="a2", version=2),
                catalog_entry("other", "secret", uid="o1"),
                catalog_entry("acme", "exotic", uid="e1", backend="tensorflow"),
            ]
        )
        self.directory = RunnerDirectory(clock=self.clock)
        self.readiness = Readiness(feeds=frozenset({"catalog"}), changed=lambda _serving: None)
        self.readiness.feed_ready("catalog")
        self.breakers: dict[tuple[str, str], pb.BreakerState.ValueType] = {}
        view = RunnerView(
            runners=self.directory,
            known=self.catalog.by_uid,
            breaker_state=lambda session, uid: self.breakers.get(
                (session.hello.runner_name, uid), pb.BREAKER_STATE_CLOSED
            ),
            clock=self.clock,
        )
        self.service = MeshService(gateway_id="g", directory=self.directory, view=view)
        self.inference = OpenInference(
            catalog=self.catalog,
            directory=self.directory,
            readiness=self.readiness,
            metrics=GatewayMetrics(registry=CollectorRegistry()),
            clock=self.clock,
            server_version="1.2.3",
        )

    def join(self, name: str, *loaded: str) -> RunnerSession:
        hello = runner_pb2.Hello(
            runner_name=name,
            boot_uuid="b",
            device=runner_pb2.Device(type="cpu"),
            backends=["onnxruntime"],
            models=[runner_pb2.ModelEvent(version_uid=uid, state=pb.MODEL_STATE_LOADED) for uid in loaded],
        )
        session = RunnerSession(
            hello=hello,
            limits=LaneLimits(),
            budget=ByteBudget(total_bytes=1 << 30),
            clock=self.clock,
            load=LoopLoad(),
            changed=self.directory.changed,
        )
        self.directory.add(session)
        return session


@pytest.fixture
async def mesh() -> Mesh:
    return Mesh()


def beats(session: RunnerSession, *, healthy: bool = True, calls: int = 0) -> None:
    """The runner's next heartbeat: `calls` wait for each of its models."""
    heartbeat = runner_pb2.Heartbeat(
        queue_depth=calls,
        device_gauges={"utilization_ratio": calls / 10},
        models=[
            runner_pb2.ModelLoad(version_uid=uid, queue_depth=calls, in_flight=2 * calls) for uid in session.models
        ],
        backend_info=[
            pb.BackendInfo(
                name="onnxruntime",
                healthy=healthy,
                reason="" if healthy else "the device is gone",
                metrics={"executions": float(calls)},
            )
        ],
    )
    session.on_event(runner_pb2.RunnerEvent(heartbeat=heartbeat))


async def listed(mesh: Mesh, call: Call) -> list[pb.Runner]:
    response = await mesh.service.ListRunners(pb.ListRunnersRequest(), call)
    assert response.gateway_id == "g"
    return list(response.runners)


async def test_operator_sees_all_models_and_a_tenant_its_own(mesh: Mesh) -> None:
    mesh.join("runner-1", "a1", "o1")
    mesh.join("runner-0", "o1")
    seen = {runner.name: {model.version_uid for model in runner.models} for runner in await listed(mesh, OPERATOR)}
    assert seen == {"runner-0": {"o1"}, "runner-1": {"a1", "o1"}}
    runners = await listed(mesh, ACME)
    assert [(runner.name, [model.model for model in runner.models]) for runner in runners] == [
        ("runner-0", []),
        ("runner-1", ["magika"]),
    ]


@pytest.mark.parametrize("call", [as_caller("default", "model_admin"), as_caller("acme", "admin")])
async def test_only_admins_of_the_operators_tenant_see_foreign_models(mesh: Mesh, call: Call) -> None:
    mesh.join("runner-0", "o1")
    assert not (await listed(mesh, call))[0].models


async def test_operator_sees_load_and_breakers_and_a_tenant_only_what_is_its_own(mesh: Mesh) -> None:
    session = mesh.join("runner-0", "a1", "a2", "o1")
    session.hello.device.name = "Abacus 9"
    session.hello.backend_info.add(name="onnxruntime", healthy=True, capabilities=pb.BackendCapabilities(batching=True))
    mesh.breakers["runner-0", "a2"] = pb.BREAKER_STATE_OPEN
    beats(session, calls=3)
    (seen,) = await listed(mesh, OPERATOR)
    assert (seen.device_name, seen.queue_depth, dict(seen.device_gauges)) == ("Abacus 9", 3, {"utilization_ratio": 0.3})
    assert (seen.backend_info[0].capabilities.batching, dict(seen.backend_info[0].metrics)) == (True, {"executions": 3})
    assert [(model.queue_depth, model.in_flight) for model in seen.models] == [(3, 6)] * 3
    (seen,) = await listed(mesh, ACME)
    assert (seen.device_name, seen.queue_depth, dict(seen.device_gauges)) == ("Abacus 9", 0, {})
    assert (seen.backend_info[0].healthy, seen.backend_info[0].capabilities.batching) == (True, True)
    assert not seen.backend_info[0].metrics
    assert [(model.version_uid, model.queue_depth, model.in_flight, model.breaker) for model in seen.models] == [
        ("a1", 0, 0, pb.BREAKER_STATE_CLOSED),
        ("a2", 0, 0, pb.BREAKER_STATE_OPEN),
    ]


async def test_a_load_is_shown_with_how_far_it_is(mesh: Mesh) -> None:
    session = mesh.join("runner-0")
    progress = pb.LoadProgress(fetched_ratio=1, loaded_ratio=0.5)
    for state, told, shown in (
        (pb.MODEL_STATE_LOADING, progress, True),
        (pb.MODEL_STATE_LOADED, None, False),
    ):
        session.on_event(
            runner_pb2.RunnerEvent(model=runner_pb2.ModelEvent(version_uid="a1", state=state, progress=told))
        )
        (seen,) = await listed(mesh, ACME)
        assert seen.models[0].HasField("load_progress") is shown
        assert not shown or seen.models[0].load_progress == progress


async def test_runner_gets_nothing_for_a_backend_that_does_not_work_until_it_does(mesh: Mesh) -> None:
    session = mesh.join("runner-0", "a1")
    session.models["a1"].backend = "onnxruntime"
    version = mesh.catalog.by_uid("a1")
    assert version is not None
    for healthy in (True, False, True):
        beats(session, healthy=healthy)
        assert bool(mesh.directory.eligible(version)) is healthy
        assert bool(mesh.directory.replicas("a1")) is healthy
        (seen,) = await listed(mesh, ACME)
        assert (seen.backend_info[0].healthy, seen.backend_info[0].reason) == (
            healthy,
            "" if healthy else "the device is gone",
        )


async def next_of(stream: AsyncIterator[pb.WatchRunnersResponse]) -> pb.Runner:
    async with asyncio.timeout(30):
        return (await anext(stream)).runner


async def test_watch_tells_the_present_then_changes_then_gone_once(mesh: Mesh) -> None:
    first = mesh.join("runner-0", "a1")
    stream = mesh.service.WatchRunners(pb.WatchRunnersRequest(), ACME)
    assert (await next_of(stream)).name == "runner-0"
    second = mesh.join("runner-1")
    assert (await next_of(stream)).id == second.id
    mesh.directory.remove(first)
    gone = await next_of(stream)
    assert (gone.id, gone.name, gone.state) == (first.id, "runner-0", pb.RUNNER_STATE_GONE)
    mesh.directory.remove(second)
    assert (await next_of(stream)).state == pb.RUNNER_STATE_GONE
    await cast("Any", stream).aclose()


async def test_watch_tells_that_a_backend_failed_and_not_how_busy_it_is(mesh: Mesh) -> None:
    session = mesh.join("runner-0", "a1")
    stream = mesh.service.WatchRunners(pb.WatchRunnersRequest(), OPERATOR)
    beats(session)
    assert (await next_of(stream)).backend_info[0].healthy
    for calls in range(5):
        beats(session, calls=calls)
        mesh.directory.changed(session)
    beats(session, healthy=False)
    assert not (await next_of(stream)).backend_info[0].healthy
    await cast("Any", stream).aclose()


async def test_left_watch_leaves_no_listener_and_merges_what_it_did_not_read(mesh: Mesh) -> None:
    stream = mesh.service.WatchRunners(pb.WatchRunnersRequest(), OPERATOR)
    waiting = asyncio.ensure_future(next_of(stream))
    await asyncio.sleep(0)
    session = mesh.join("runner-0")
    for _ in range(1_000):
        mesh.directory.changed(session)
    assert (await waiting).id == session.id
    mesh.directory.remove(session)
    assert (await next_of(stream)).state == pb.RUNNER_STATE_GONE
    await cast("Any", stream).aclose()
    assert not mesh.directory._listeners


async def test_drain_takes_the_runner_out_of_service_and_can_be_repeated(mesh: Mesh) -> None:
    session = mesh.join("runner-0", "a1")
    for _ in range(2):
        response = await mesh.service.DrainRunner(pb.DrainRunnerRequest(id=session.id), OPERATOR)
        assert response.runner.id == session.id
        assert response.runner.state != pb.RUNNER_STATE_READY
    assert not mesh.directory.replicas("a1")


@pytest.mark.parametrize(("runner_id", "reason"), [("", "FIELD_REQUIRED"), ("nobody", "RUNNER_NOT_FOUND")])
async def test_drain_of_no_runner_is_refused(mesh: Mesh, runner_id: str, reason: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        await mesh.service.DrainRunner(pb.DrainRunnerRequest(id=runner_id), OPERATOR)
    assert caught.value.reason == reason


async def test_server_is_ready_once_a_runner_takes_calls_and_not_while_draining(mesh: Mesh) -> None:
    async def ready() -> bool:
        return (await mesh.inference.ServerReady(oip.ServerReadyRequest(), replace(ACME, caller=None))).ready

    assert not await ready()
    session = mesh.join("runner-0")
    assert await ready()
    mesh.directory.drain(session.id)
    assert not await ready()
    mesh.join("runner-1")
    assert await ready()
    mesh.readiness.drain()
    assert not await ready()
    assert (await mesh.inference.ServerLive(oip.ServerLiveRequest(), ACME)).live


async def test_model_is_ready_when_a_runner_could_load_it(mesh: Mesh) -> None:
    async def ready(name: str) -> bool:
        return (await mesh.inference.ModelReady(oip.ModelReadyRequest(name=name), ACME)).ready

    assert not await ready("magika")
    mesh.join("runner-0")
    assert await ready("magika")
    assert not await ready("exotic")


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("secret", "", "MODEL_NOT_FOUND"),
        ("nothing", "", "MODEL_NOT_FOUND"),
        ("magika", "9", "MODEL_VERSION_NOT_FOUND"),
        ("magika", "x", "MODEL_VERSION_INVALID"),
        ("", "", "FIELD_REQUIRED"),
    ],
)
async def test_model_that_the_caller_does_not_have_is_refused(mesh: Mesh, name: str, version: str, reason: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        await mesh.inference.ModelReady(oip.ModelReadyRequest(name=name, version=version), ACME)
    assert caught.value.reason == reason
    with pytest.raises(HeadraceError) as caught:
        await mesh.inference.ModelMetadata(oip.ModelMetadataRequest(name=name, version=version), ACME)
    assert caught.value.reason == reason


async def test_metadata_describes_the_manifest(mesh: Mesh) -> None:
    answer = await mesh.inference.ModelMetadata(oip.ModelMetadataRequest(name="magika", version="1"), ACME)
    assert (answer.name, list(answer.versions), answer.platform) == ("magika", ["1", "2"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in answer.inputs] == [("x", "FP32", [-1, 3])]
    assert [(t.name, t.datatype, list(t.shape)) for t in answer.outputs] == [("y", "INT64", [-1])]
    server = await mesh.inference.ServerMetadata(oip.ServerMetadataRequest(), ACME)
    assert (server.name, server.version) == ("headrace", "1.2.3")
