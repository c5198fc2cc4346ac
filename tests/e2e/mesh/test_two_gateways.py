"""Two gateways behind one port: each serves all runners, both say the same and agree where models are; one may go."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

from headrace.gateway.v1.mesh_pb2 import MODEL_STATE_LOADED, ListRunnersRequest, ListRunnersResponse
from headrace.gateway.v1.mesh_pb2_grpc import MeshServiceStub
from headrace_client import AsyncClient, HeadraceError
from headrace_client.errors import DeadlineError
from inference.model_repository_pb2 import (
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support import onnx_models
from support.folders import open_folder
from support.headrace_command import Headrace
from support.mesh import Mesh, running_mesh
from support.soak import scrape

pytestmark = pytest.mark.timeout(240)

BYTES = {"bytes": np.full((1, 2048), 65, np.int32)}
CALLERS = 3
COUNTED = "headrace_infer_requests_total"
ROW = {"x": np.ones((1, 16), np.float32)}
CUTOVERS = "headrace_placement_cutovers"


@pytest.fixture(scope="module")
def twins() -> Iterator[Mesh]:
    """Two runners, `magika` in both of them from the start, and models whose calls wait for a second get replicas."""
    environment = {"HEADRACE_GATEWAY_PREWARM": "community/magika", "HEADRACE_GATEWAY_SCALE_UP_AFTER_S": "1"}
    with open_folder() as folder:
        with running_mesh(folder, "--runners", "2", "--gateways", "2", environment=environment) as running:
            yield running
        assert running.supervisor.returncode == 0, running.log.read_text(errors="replace")[-6000:]


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


def replicas(twins: Mesh, model: str, version: int) -> int:
    """Runners that have a version loaded."""
    with grpc.insecure_channel(twins.grpc) as channel:
        answer = MeshServiceStub(channel).ListRunners(ListRunnersRequest(), metadata=twins.metadata, timeout=30)
    return sum(
        (loaded.model, loaded.version, loaded.state) == (model, version, MODEL_STATE_LOADED)
        for runner in answer.runners
        for loaded in runner.models
    )


def counted(twins: Mesh, name: str) -> list[float]:
    """A metric of each gateway; 0 where it has none."""
    return [scrape(str(gateway.metrics)).get(name, 0.0) for gateway in twins.named("gateway")]


async def until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


async def test_what_is_listed_or_belongs_to_a_warm_pool_is_loaded_before_anybody_calls_it(twins: Mesh) -> None:
    await until(lambda: replicas(twins, "magika", 1) == 2)
    async with AsyncClient(twins.grpc, api_key=twins.api_key) as client:
        pool = {"placement": {"min_replicas": 1, "max_replicas": 1}}
        await client.models.push(onnx_models.tiny(seed=1), name="pooled", manifest=pool)
        await until(lambda: replicas(twins, "pooled", 1) == 1)
        await client.models.push(onnx_models.tiny(seed=1), name="unpooled")
        await client.infer("pooled", ROW)
    # Whichever gateway is asked, after both have heard of it.
    await until(lambda: replicas(twins, "pooled", 1) == 1)
    assert replicas(twins, "unpooled", 1) == 0


async def test_requests_move_to_a_new_version_once_it_is_where_the_old_one_is_and_none_of_them_waits(
    twins: Mesh,
) -> None:
    async with AsyncClient(twins.grpc, api_key=twins.api_key) as client:
        await client.models.push(onnx_models.tiny(seed=1), name="renewed")
        await client.infer("renewed", ROW)
        await until(lambda: replicas(twins, "renewed", 1) == 2)
        before = counted(twins, f'{CUTOVERS}_total{{outcome="done"}}')
        served: list[str] = []
        done = asyncio.Event()

        async def call() -> None:
            # A client of its own, so that both gateways have calls.
            async with AsyncClient(twins.grpc, api_key=twins.api_key) as caller:
                while not done.is_set():
                    result = await caller.infer("renewed", ROW, timeout_s=20)
                    served.append(result.version)
                    await asyncio.sleep(0.002)

        callers = [asyncio.create_task(call()) for _ in range(4)]
        await until(lambda: len(served) > 50)
        await client.models.push(onnx_models.tiny(seed=2), name="renewed")
        await until(lambda: served[-20:] == ["2"] * 20)
        # Each gateway moves over when it has heard of all replicas.
        await until(lambda: counted(twins, f'{CUTOVERS}_total{{outcome="done"}}') == [count + 1 for count in before])
        await until(lambda: replicas(twins, "renewed", 2) == 2)
        done.set()
        await asyncio.gather(*callers)
        expected = ROW["x"] @ onnx_models.tiny_weights(seed=2)
        result = await client.infer("renewed", ROW)
        assert np.allclose(result["z"], expected, atol=1e-4)
        assert (await client.infer("renewed", ROW, version="1")).version == "1"
    assert set(served) == {"1", "2"}


async def test_a_new_version_that_no_runner_can_load_gets_no_requests(twins: Mesh) -> None:
    async with AsyncClient(twins.grpc, api_key=twins.api_key) as client:
        await client.models.push(onnx_models.identity(shape=("batch", 16)), name="broken-later")
        await client.infer("broken-later", ROW)
        await client.models.push(onnx_models.identities(["BF16", "BYTES"]), name="broken-later")
        await until(lambda: counted(twins, f'{CUTOVERS}_pending{{state="failing"}}') == [1, 1])
        assert (await client.infer("broken-later", ROW)).version == "1"
        await client.models.push(onnx_models.add(shape=("batch", 16)), name="broken-later")
        await until(lambda: counted(twins, f'{CUTOVERS}_pending{{state="failing"}}') == [0, 0])
        both = {"x": ROW["x"], "y": ROW["x"]}
        for state in ("failing", "loading"):
            await until(lambda state=state: counted(twins, f'{CUTOVERS}_pending{{state="{state}"}}') == [0, 0])
        assert (await client.infer("broken-later", both)).version == "3"


async def test_a_model_whose_calls_wait_for_too_long_gets_another_replica(twins: Mesh) -> None:
    slow = {"x": np.array(0, np.int64), "y": np.array(20_000, np.int64)}
    async with AsyncClient(twins.grpc, api_key=twins.api_key) as client:
        await client.models.push(onnx_models.counting_loop(), name="busy", manifest={"execution": {"replicas": 1}})
        await client.infer("busy", slow)
        await until(lambda: replicas(twins, "busy", 1) == 1)
        done = asyncio.Event()

        async def call() -> None:
            while not done.is_set():
                try:
                    await client.infer("busy", slow, timeout_s=60)
                except DeadlineError:
                    # After a stall the gateway expects the next calls to take as long.
                    await asyncio.sleep(0.05)

        callers = [asyncio.create_task(call()) for _ in range(60)]
        await until(lambda: replicas(twins, "busy", 1) == 2, within_s=60)
        done.set()
        await asyncio.gather(*callers)


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
