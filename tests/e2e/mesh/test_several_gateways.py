"""Two gateways behind one port: each serves all runners, both tell the same, and either may leave."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from headrace.gateway.v1.mesh_pb2 import ListRunnersRequest, ListRunnersResponse
from headrace.gateway.v1.mesh_pb2_grpc import MeshServiceStub
from headrace_client import AsyncClient, HeadraceError
from inference.model_repository_pb2 import (
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.headrace_command import Headrace
from support.mesh import Mesh
from support.soak import scrape

pytestmark = pytest.mark.timeout(240)

BYTES = {"bytes": np.full((1, 2048), 65, np.int32)}
CALLERS = 3
COUNTED = "headrace_infer_requests_total"


@pytest.fixture
def channels(twins: Mesh) -> Iterator[dict[str, grpc.Channel]]:
    """A connection to each gateway, by its name: the kernel deals new connections out, so some are tried."""
    found: dict[str, grpc.Channel] = {}
    spare: list[grpc.Channel] = []
    for _ in range(64):
        channel = grpc.insecure_channel(twins.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
        name = listed(channel, twins).gateway_id.partition(".")[0]
        if name in found:
            spare.append(channel)
        found.setdefault(name, channel)
        if len(found) == 2:
            break
    yield found
    for channel in (*found.values(), *spare):
        channel.close()


def listed(channel: grpc.Channel, mesh: Mesh) -> ListRunnersResponse:
    return MeshServiceStub(channel).ListRunners(ListRunnersRequest(), metadata=mesh.metadata, timeout=30)


def test_both_gateways_have_every_runner_and_say_the_same_of_it(twins: Mesh, channels: dict[str, grpc.Channel]) -> None:
    assert {process.grpc for process in twins.named("gateway")} == {twins.grpc}
    assert channels.keys() == {"gateway-0", "gateway-1"}
    seen = {name: listed(channel, twins).runners for name, channel in channels.items()}
    assert [runner.id for runner in seen["gateway-0"]] == [runner.id for runner in seen["gateway-1"]]
    for runners in seen.values():
        assert [runner.name for runner in runners] == ["runner-0", "runner-1"]
        for runner in runners:
            backend = {backend.name: backend for backend in runner.backend_info}["onnxruntime"]
            assert (backend.healthy, backend.capabilities.batching) == (True, True)
    shown = Headrace.of(twins)("runners", "list").stdout
    assert "✓ onnxruntime" in shown and "runner-1" in shown


def test_what_one_gateway_loads_and_lets_go_is_so_for_both(twins: Mesh, channels: dict[str, grpc.Channel]) -> None:
    stubs = {name: GRPCInferenceServiceStub(channel) for name, channel in channels.items()}

    def states() -> dict[str, str]:
        return {
            name: next(
                model.state
                for model in stub.RepositoryIndex(RepositoryIndexRequest(), metadata=twins.metadata, timeout=30).models
                if model.name == "silero_vad"
            )
            for name, stub in stubs.items()
        }

    def until(state: str) -> None:
        give_up_at = time.monotonic() + 30
        # Whoever was asked knows; the other one hears it from the runners a moment later.
        while set(states().values()) != {state}:
            assert time.monotonic() < give_up_at, states()
            time.sleep(0.02)

    for loads, lets_go in (("gateway-0", "gateway-1"), ("gateway-1", "gateway-0")):
        stubs[loads].RepositoryModelLoad(
            RepositoryModelLoadRequest(model_name="silero_vad"), metadata=twins.metadata, timeout=60
        )
        assert states()[loads] == "READY"
        until("READY")
        stubs[lets_go].RepositoryModelUnload(
            RepositoryModelUnloadRequest(model_name="silero_vad"), metadata=twins.metadata, timeout=60
        )
        assert states()[lets_go] == "UNAVAILABLE"
        until("UNAVAILABLE")


class Load:
    """Clients of the SDK as it is by default: each sends unary calls and calls on a packed stream, one by one."""

    def __init__(self, mesh: Mesh) -> None:
        self.ends: Counter[str] = Counter()
        self._mesh = mesh
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Load:
        self._clients = [AsyncClient(self._mesh.grpc, api_key=self._mesh.api_key) for _ in range(CALLERS)]
        self._callers = [
            asyncio.create_task(calls(client)) for client in self._clients for calls in (self._unary, self._packed)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._callers)
        for client in self._clients:
            await client.close()

    async def _unary(self, client: AsyncClient) -> None:
        while not self._stop.is_set():
            try:
                await client.infer("magika", BYTES)
                self.ends["unary"] += 1
            except HeadraceError as error:
                self.ends[f"unary: {error.reason}: {error}"] += 1

    async def _packed(self, client: AsyncClient) -> None:
        async with client.stream() as stream:
            while not self._stop.is_set():
                try:
                    await stream.infer("magika", BYTES)
                    self.ends["packed"] += 1
                except HeadraceError as error:
                    self.ends[f"packed: {error.reason}: {error}"] += 1


def joined(mesh: Mesh) -> set[float]:
    """How many runners the gateways have."""
    return {scrape(str(gateway.metrics))["headrace_mesh_runners"] for gateway in mesh.named("gateway")}


async def called(mesh: Mesh, *, load: Load, more: int) -> None:
    """Waits for so many more answers of each kind."""
    async with asyncio.timeout(100):
        wanted = {kind: load.ends[kind] + more for kind in ("unary", "packed")}
        while any(load.ends[kind] < number for kind, number in wanted.items()):
            await asyncio.sleep(0.02)


async def test_clients_of_one_address_use_both_gateways(twins: Mesh) -> None:
    def answered() -> list[float]:
        pages = [scrape(str(process.metrics)) for process in twins.named("gateway")]
        return [
            sum(value for name, value in page.items() if name.startswith("headrace_infer_requests_total"))
            for page in pages
        ]

    before = answered()
    for _ in range(20):
        async with Load(twins) as load:
            await called(twins, load=load, more=1)
        assert load.ends.keys() == {"unary", "packed"}
        if all(now > then for now, then in zip(answered(), before, strict=True)):
            return
    raise AssertionError(f"one gateway got every connection: {answered()}")


@pytest.mark.fault
async def test_a_killed_gateway_costs_clients_nothing_and_has_its_runners_within_two_seconds(twins: Mesh) -> None:
    async with Load(twins) as load:
        await called(twins, load=load, more=20)
        for name in ("gateway-0", "gateway-1"):
            before = twins.current_processes()[name]
            os.kill(before.pid, signal.SIGKILL)
            up_at = 0.0
            while True:
                now = twins.current_processes()[name]
                try:
                    runners = scrape(str(now.metrics)).get("headrace_mesh_runners", 0.0)
                except OSError:
                    runners = 0.0
                else:
                    up_at = up_at or time.monotonic()
                if runners == 2:
                    break
                await asyncio.sleep(0.02)
            assert time.monotonic() - up_at <= 2.0
            assert (now.grpc, now.pid != before.pid) == (before.grpc, True)
            await called(twins, load=load, more=20)
    assert load.ends.keys() == {"unary", "packed"}, load.ends


@pytest.mark.fault
async def test_a_runner_that_one_gateway_drains_leaves_the_other_one_too_without_a_failed_call(twins: Mesh) -> None:
    admin = Headrace.of(twins).with_key((twins.state_dir / "secrets" / "admin.key").read_text().strip())
    before = twins.current_processes()["runner-1"].pid
    async with Load(twins) as load:
        await called(twins, load=load, more=20)
        await asyncio.to_thread(admin.process, "runners", "drain", "runner-1", "--wait")
        async with asyncio.timeout(30):
            while twins.current_processes()["runner-1"].pid == before or {
                scrape(str(gateway.metrics))["headrace_mesh_runners"] for gateway in twins.named("gateway")
            } != {2.0}:
                await asyncio.sleep(0.05)
        await called(twins, load=load, more=20)
    assert load.ends.keys() == {"unary", "packed"}, load.ends


@pytest.mark.fault
async def test_every_service_is_restarted_in_turn_and_clients_notice_nothing(twins: Mesh) -> None:
    before = twins.current_processes()
    async with Load(twins) as load:
        await called(twins, load=load, more=20)
        told = await asyncio.to_thread(Headrace().process, "restart", "--state-dir", str(twins.state_dir))
        await called(twins, load=load, more=20)
    after = twins.current_processes()
    services = [name for name in before if name not in {"postgres", "valkey"}]
    assert [line.split()[1] for line in told.stdout.splitlines()] == services
    for name, process in after.items():
        assert (process.grpc, process.metrics) == (before[name].grpc, before[name].metrics)
        assert (process.pid != before[name].pid) is (name in services)
    assert load.ends.keys() == {"unary", "packed"}, load.ends
