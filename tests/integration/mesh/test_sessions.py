"""A gateway's mesh listener and runners' mesh clients over real gRPC, with hosts that echo."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import manifest_pb2, models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.clock import SystemClock
from headrace_common.errors import HeadraceError, ModelError
from headrace_common.grpc_client import open_channel
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.inference.dispatcher import Dispatcher
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.inference.routing import Router
from headrace_gateway.inference.routing_rules import RoutingRules
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.placement import Wants
from headrace_gateway.mesh.servicer import RunnerMeshHandler
from headrace_gateway.mesh.session_calls import Answer as GatewayAnswer
from headrace_runner.calls import Answer, IncomingCall
from headrace_runner.mesh import MeshClient
from support.admissions import admitting
from support.mesh_ends import begin_with, dispatched
from support.placement import placement
from support.processes import HeldPort

MIB = 1 << 20
CLOCK = SystemClock()
LIMITS = LaneLimits()
VERSION = CatalogVersion(
    tenant_id="t",
    uid="uid-1",
    model="echo",
    version=1,
    version_text="1",
    proto=models_pb2.Version(
        uid="uid-1", model="echo", version=1, manifest=manifest_pb2.Manifest(backend="echo", batched=False)
    ),
)


class EchoHost:
    """Loads whatever is wanted and echoes payloads; `delay_s` in the middle of each execution."""

    def __init__(self) -> None:
        self.device = mesh_pb2.Device(type="cpu", name="test")
        self.backends = ["echo"]
        self.execution_slots = 4
        self.delay_s = 0.0
        self.beating = True
        self.tells_models = False
        self.running = 0
        self.executed = 0
        self.fails_to_load = False
        self._loaded: dict[str, mesh_pb2.ModelEvent] = {}
        self._listeners: list[Callable[[mesh_pb2.ModelEvent], None]] = []
        self.begin = begin_with(self.infer)

    def backend_info(self) -> list[gateway_pb2.BackendInfo]:
        return [gateway_pb2.BackendInfo(name="echo", healthy=True)]

    async def infer(self, call: IncomingCall) -> Answer:
        if call.version_uid not in self._loaded:
            raise ModelError("not loaded", entry=catalogue.MODEL_LOADING)
        self.running += 1
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.running -= 1
        self.executed += 1
        if bytes(call.payload[:6]) == b"poison":
            raise ModelError("poisoned", entry=catalogue.MODEL_EXECUTION_FAILED)
        return Answer(payload=bytes(call.payload), queue_us=0, compute_us=1)

    def want(self, *, tenant_id: str, version: models_pb2.Version, ticket: str, ttl_s: float) -> None:
        assert ticket == f"ticket for {version.uid}" or ttl_s == 0
        if ttl_s == 0:
            self.unload(version.uid)
        elif version.uid not in self._loaded:
            state = gateway_pb2.MODEL_STATE_FAILED if self.fails_to_load else gateway_pb2.MODEL_STATE_LOADED
            event = mesh_pb2.ModelEvent(version_uid=version.uid, state=state, execution_slots=4)
            if not self.fails_to_load:
                self._loaded[version.uid] = event
            self._tell(event)

    def unload(self, uid: str) -> None:
        if self._loaded.pop(uid, None) is not None:
            self._tell(mesh_pb2.ModelEvent(version_uid=uid, state=gateway_pb2.MODEL_STATE_UNLOADED))

    def release(self, version_uid: str) -> None:
        self._loaded.pop(version_uid, None)
        event = mesh_pb2.ModelEvent(version_uid=version_uid, state=gateway_pb2.MODEL_STATE_UNLOADED, released=True)
        self._tell(event)

    def _tell(self, event: mesh_pb2.ModelEvent) -> None:
        for listener in list(self._listeners):
            listener(event)

    def model_events(self) -> Sequence[mesh_pb2.ModelEvent]:
        return list(self._loaded.values())

    def add_listener(self, listener: Callable[[mesh_pb2.ModelEvent], None]) -> None:
        self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[mesh_pb2.ModelEvent], None]) -> None:
        self._listeners.remove(listener)

    def load(self) -> mesh_pb2.Heartbeat:
        load = mesh_pb2.Heartbeat(in_flight=self.running)
        if self.tells_models:
            load.models.add(version_uid=VERSION.uid, in_flight=self.running)
        return load


@dataclass
class Gateway:
    """What one gateway process has of the mesh."""

    directory: RunnerDirectory
    wants: Wants
    dispatcher: Dispatcher
    budget: ByteBudget
    address: str
    server: GrpcServer

    async def infer(self, payload: bytes, timeout_s: float = 30.0) -> GatewayAnswer:
        return await dispatched(self.dispatcher, VERSION, payload, timeout_s=timeout_s)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await self.directory.wait_for_change(0.05)


@asynccontextmanager
async def gateway(gateway_id: str = "gateway-0", address: str = "127.0.0.1:0") -> AsyncIterator[Gateway]:
    registry = CollectorRegistry()
    budget = ByteBudget(total_bytes=256 * MIB)
    directory = RunnerDirectory(clock=CLOCK)
    wants = Wants(
        catalog=Catalog(),
        directory=directory,
        sign_ticket=lambda version: f"ticket for {version.uid}",
        clock=CLOCK,
        policy=placement(),
    )
    handler = RunnerMeshHandler(
        gateway_id=gateway_id,
        admissions=admitting("secret"),
        directory=directory,
        limits=LIMITS,
        budget=budget,
        load=LoopLoad(),
        clock=CLOCK,
        registry=registry,
    )
    server = GrpcServer(
        listeners=[Listener(address=address)], handlers=[handler], runtime=RpcRuntime(registry=registry)
    )
    (bound,) = await server.start()
    dispatcher = Dispatcher(
        directory=directory,
        wants=wants,
        clock=CLOCK,
        router=Router(directory=directory, clock=CLOCK, random=Random(1), rules=RoutingRules()),
        random=Random(1),
        limits=ResilienceLimits(runner_calls_max=1_000, model_calls_max=1_000, tenant_calls_max=1_000),
    )
    tasks = [asyncio.create_task(directory.watch_heartbeats()), asyncio.create_task(wants.run())]
    try:
        yield Gateway(directory, wants, dispatcher, budget, bound, server)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop(0)


@dataclass
class Runner:
    host: EchoHost
    client: MeshClient
    task: asyncio.Task[None]
    budget: ByteBudget

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def runner(*targets: str, name: str = "runner-0", token: str = "secret") -> AsyncIterator[Runner]:
    host = EchoHost()
    budget = ByteBudget(total_bytes=256 * MIB)
    client = MeshClient(
        targets=targets,
        open_channel=lambda address, _name: open_channel(address, own_connection=True),
        join_token=lambda: token,
        name=name,
        labels={"zone": "a"},
        host=host,
        limits=LIMITS,
        budget=budget,
        load=LoopLoad(),
        clock=CLOCK,
    )
    running = Runner(host, client, asyncio.create_task(client.run()), budget)
    try:
        yield running
    finally:
        await running.kill()


async def test_first_use_loads_the_model_and_small_and_large_payloads_come_back_unchanged() -> None:
    async with gateway() as g, runner(g.address) as r:
        for size in (0, 10, LIMITS.inline_bytes_max, LIMITS.inline_bytes_max + 1, 5 * MIB, 60 * MIB):
            payload = os.urandom(size)
            assert (await g.infer(payload)).payload == payload
        (session,) = g.directory
        assert session.calls.in_flight == 0
        assert (g.budget.held_bytes, r.budget.held_bytes) == (0, 0)
        assert (session.hello.runner_name, session.hello.device.type) == ("runner-0", "cpu")
        assert session.has_loaded(VERSION.uid)


async def test_poisoned_request_fails_alone_and_is_not_tried_elsewhere() -> None:
    async with gateway() as g, runner(g.address) as a, runner(g.address, name="runner-1") as b:
        await g.until(lambda: len(g.directory) == 2)
        results = await asyncio.gather(
            *(g.infer(b"poison" if i % 10 == 0 else b"%d" % i) for i in range(100)), return_exceptions=True
        )
        for i, result in enumerate(results):
            if i % 10 == 0:
                assert isinstance(result, ModelError)
                assert result.reason == "MODEL_EXECUTION_FAILED"
            else:
                assert isinstance(result, GatewayAnswer)
                assert result.payload == b"%d" % i
        assert a.host.executed + b.host.executed == 100


async def test_lost_runner_costs_no_call_while_another_one_lives() -> None:
    async with gateway() as g, runner(g.address) as a, runner(g.address, name="runner-1") as b:
        await g.until(lambda: len(g.directory) == 2)
        await g.infer(b"warm")
        await g.until(lambda: len(g.directory.replicas(VERSION.uid)) == 2)
        # What the first one has lasts until it is lost; the other one may have answered what it has by then.
        a.host.delay_s, b.host.delay_s = 60, 0.05
        before = b.host.executed
        calls = [asyncio.create_task(g.infer(b"%d" % i * 100_000)) for i in range(60)]
        await g.until(lambda: bool(a.host.running and (b.host.running or b.host.executed > before)))
        await a.kill()
        for i, answer in enumerate(await asyncio.gather(*calls)):
            assert answer.payload == b"%d" % i * 100_000
        assert len(g.directory) == 1


async def test_call_waits_for_a_runner_that_comes_back() -> None:
    async with gateway() as g:
        waiting = asyncio.create_task(g.infer(b"patience"))
        await asyncio.sleep(0)
        async with runner(g.address):
            assert (await waiting).payload == b"patience"


async def test_without_any_runner_the_call_is_refused_after_a_short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_gateway.inference.waiting_line.RUNNER_WAIT_S", 0.05)
    async with gateway() as g:
        with pytest.raises(HeadraceError) as caught:
            await g.infer(b"x")
        assert caught.value.reason == "RUNNER_NOT_AVAILABLE"


async def test_failed_load_is_told_to_the_caller() -> None:
    async with gateway() as g, runner(g.address) as r:
        r.host.fails_to_load = True
        with pytest.raises(ModelError) as caught:
            await g.infer(b"x")
        assert caught.value.reason == "MODEL_LOAD_FAILED"


async def test_unloaded_model_is_loaded_again_on_use() -> None:
    async with gateway() as g, runner(g.address) as r:
        await g.infer(b"x")
        r.host.unload(VERSION.uid)
        assert (await g.infer(b"y")).payload == b"y"


async def test_withdrawn_version_is_unloaded() -> None:
    async with gateway() as g, runner(g.address) as r:
        await g.infer(b"x")
        g.wants.withdraw(VERSION.uid)
        await g.until(lambda: not g.directory.replicas(VERSION.uid))
        assert r.host.model_events() == []


async def test_silent_runner_is_ejected_and_its_calls_fail_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # Gateways judge nobody after a stall of a quarter of a second and more, so one that is shorter must not matter.
    monkeypatch.setattr("headrace_gateway.mesh.runner_session.HEARTBEAT_TIMEOUT_S", 1.0)
    monkeypatch.setattr("headrace_runner.mesh.session.HEARTBEAT_S", 0.05)
    async with gateway() as g, runner(g.address, name="runner-0") as silent, runner(g.address, name="runner-1"):
        await g.until(lambda: len(g.directory) == 2)
        await g.infer(b"warm")
        await g.until(lambda: len(g.directory.replicas(VERSION.uid)) == 2)
        silent.host.delay_s = 60
        calls = [asyncio.create_task(g.infer(b"%d" % i)) for i in range(8)]
        await g.until(lambda: silent.host.running > 0)
        (session,) = (session for session in g.directory if session.hello.runner_name == "runner-0")
        monkeypatch.setattr(session, "on_event", lambda event: None)
        assert {answer.payload for answer in await asyncio.gather(*calls)} == {b"%d" % i for i in range(8)}
        assert session not in g.directory.replicas(VERSION.uid)


async def test_draining_runner_finishes_what_it_has_and_gets_nothing_new() -> None:
    async with gateway() as g, runner(g.address) as r:
        await g.infer(b"warm")
        r.host.delay_s = 0.5
        call = asyncio.create_task(g.infer(b"last"))
        await g.until(lambda: r.host.running > 0)
        assert await r.client.drain(30.0)
        assert (await call).payload == b"last"
        assert len(g.directory) == 0


async def test_operator_drains_a_runner_through_the_gateway() -> None:
    async with gateway() as g, runner(g.address) as r:
        await g.infer(b"warm")
        (session,) = g.directory
        g.directory.drain(session.id)
        await asyncio.wait_for(r.client.drain_requested.wait(), 30)
        assert g.directory.replicas(VERSION.uid) == ()
        assert await r.client.drain(30.0)
        assert len(g.directory) == 0


async def test_what_one_gateway_releases_is_gone_for_all_and_comes_back_when_it_is_used() -> None:
    async with gateway("a") as a, gateway("b") as b, runner(a.address, b.address) as r:
        for g in (a, b):
            await g.infer(b"warm")
        a.wants.release(VERSION.uid)
        assert a.wants.releasing(VERSION.uid)
        await a.until(lambda: not a.wants.releasing(VERSION.uid))
        await b.until(lambda: not b.directory.replicas(VERSION.uid))
        assert r.host.model_events() == []
        assert (await b.infer(b"again")).payload == b"again"
        await a.until(lambda: len(a.directory.replicas(VERSION.uid)) == 1)


async def test_runner_serves_two_gateways_and_one_gateway_by_two_names_once() -> None:
    async with gateway("a") as a, gateway("b") as b:
        other_name = a.address.replace("127.0.0.1", "localhost")
        async with runner(a.address, other_name, b.address) as r:
            await a.until(lambda: len(a.directory) == 1 and len(b.directory) == 1)
            answers = await asyncio.gather(a.infer(b"1"), b.infer(b"2"))
            assert [answer.payload for answer in answers] == [b"1", b"2"]
            assert r.client.gateways == {"a", "b"}


@pytest.mark.parametrize("by_model", [True, False])
async def test_calls_of_another_gateway_turn_this_one_s_to_a_free_runner(
    by_model: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_runner.mesh.session.HEARTBEAT_S", 0.05)
    async with gateway("a") as a, gateway("b") as b:
        targets = a.address, b.address
        async with runner(*targets, name="runner-0") as busy, runner(*targets, name="runner-1") as free:
            for r in (busy, free):
                await a.until(lambda: len(a.directory) == 2 and len(b.directory) == 2)
                r.host.tells_models = by_model
                r.host.want(tenant_id="t", version=VERSION.proto, ticket=f"ticket for {VERSION.uid}", ttl_s=30)
            for g in (a, b):
                await g.until(lambda g=g: len(g.directory.replicas(VERSION.uid)) == 2)
            for session in b.directory:
                if session.hello.runner_name == "runner-1":
                    session.eject()
            busy.host.delay_s = 60
            calls = [asyncio.create_task(b.infer(b"%d" % i)) for i in range(4)]
            (seen,) = (session for session in a.directory if session.hello.runner_name == "runner-0")
            await a.until(lambda: seen.work.pending_s > 0)
            for i in range(3):
                await a.infer(b"%d" % i)
            assert (busy.host.executed, free.host.executed) == (0, 3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await a.until(lambda: seen.work.pending_s == 0)


async def test_runner_joins_a_restarted_gateway_again(port: HeldPort) -> None:
    async with gateway(address=port.address) as first, runner(port.address) as r:
        await first.infer(b"x")
        await first.server.stop(0)
        async with gateway(address=port.address) as second:
            await second.until(lambda: len(second.directory) == 1)
            assert (await second.infer(b"again")).payload == b"again"
            assert r.client.gateways == {"gateway-0"}


async def test_wrong_join_token_is_refused() -> None:
    async with gateway() as g, open_channel(g.address) as channel:
        register = channel.stream_stream("/headrace.runner.internal.v1.RunnerMesh/Register")
        call = register(metadata=(("authorization", "Bearer wrong"),))
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
        exchange = channel.stream_stream("/headrace.runner.internal.v1.RunnerMesh/Exchange")
        call = exchange(metadata=(("x-headrace-session", "guess"), ("x-headrace-lane", "small")))
        assert await call.code() != grpc.StatusCode.OK


async def test_runner_that_answers_calls_it_was_not_sent_loses_its_session() -> None:
    async with gateway() as g, open_channel(g.address) as channel:
        register = channel.stream_stream("/headrace.runner.internal.v1.RunnerMesh/Register")
        exchange = channel.stream_stream("/headrace.runner.internal.v1.RunnerMesh/Exchange")
        control = register(metadata=(("authorization", "Bearer secret"),))
        hello = mesh_pb2.Hello(
            protocol_version=1, runner_name="liar", boot_uuid="1", device=mesh_pb2.Device(type="cpu")
        )
        await control.write(mesh_pb2.RunnerEvent(hello=hello).SerializeToString())
        answer = await control.read()
        assert isinstance(answer, bytes)
        welcome = mesh_pb2.GatewayCommand.FromString(answer).welcome
        token = ("x-headrace-session", welcome.session_token)
        small = exchange(metadata=(token, ("x-headrace-lane", "small")))
        bulk = exchange(metadata=(token, ("x-headrace-lane", "bulk")))
        await small.write(mesh_pb2.ResultFrame(credit=mesh_pb2.Credit(messages=9)).SerializeToString())
        await g.until(lambda: len(g.directory) == 1)
        lie = mesh_pb2.ResultFrame(results=[mesh_pb2.Result(id=7, terminal=True, payload=b"evil")])
        await small.write(lie.SerializeToString())
        await g.until(lambda: len(g.directory) == 0)
        bulk.cancel()


@pytest.mark.parametrize(
    "hello",
    [
        mesh_pb2.Hello(protocol_version=0, runner_name="x", boot_uuid="1", device=mesh_pb2.Device(type="cpu")),
        mesh_pb2.Hello(protocol_version=1, runner_name="x" * 129, boot_uuid="1", device=mesh_pb2.Device(type="cpu")),
        mesh_pb2.Hello(protocol_version=1, runner_name="x", boot_uuid="1"),
    ],
    ids=["old protocol", "long name", "no device"],
)
async def test_bad_hello_is_refused(hello: mesh_pb2.Hello) -> None:
    async with gateway() as g, open_channel(g.address) as channel:
        register = channel.stream_stream("/headrace.runner.internal.v1.RunnerMesh/Register")
        control = register(metadata=(("authorization", "Bearer secret"),))
        await control.write(mesh_pb2.RunnerEvent(hello=hello).SerializeToString())
        assert await control.code() != grpc.StatusCode.OK


async def test_random_cancels_leave_tasks_credits_and_bytes_exactly_back() -> None:
    random = Random(7)
    async with gateway() as g, runner(g.address) as r:
        await g.infer(b"warm")
        tasks_before = len(asyncio.all_tasks())
        r.host.delay_s = 0.002

        async def one(i: int) -> None:
            size = random.choice((10, 1000, LIMITS.inline_bytes_max + 1, MIB))
            payload = i.to_bytes(4, "big") * (size // 4)
            call = asyncio.create_task(g.infer(payload))
            await asyncio.sleep(random.random() * 0.01)
            call.cancel()
            try:
                assert (await call).payload == payload
            except asyncio.CancelledError:
                return

        for _ in range(20):
            await asyncio.gather(*(one(i) for i in range(50)))
        (session,) = g.directory
        await g.until(lambda: session.calls.in_flight == 0)
        # What a call held is given back in the turns of the loop that follow its end.
        await g.until(lambda: (g.budget.held_bytes, r.budget.held_bytes, r.host.running) == (0, 0, 0))
        # So much time that none of them seems hopeless after a moment in which the machine stood still.
        answers = await asyncio.gather(*(g.infer(b"%d" % i, timeout_s=3_600) for i in range(500)))
        assert [answer.payload for answer in answers] == [b"%d" % i for i in range(500)]
        gc.collect()
        await g.until(lambda: len(asyncio.all_tasks()) <= tasks_before)
