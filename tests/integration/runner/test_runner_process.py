"""The runner as a process between a gateway's mesh listener and an ArtifactService."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from headrace.registry.v1.manifest_pb2 import Manifest, TensorSpec
from headrace_common.clock import SystemClock
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
from headrace_runner.config import RunnerSettings
from support import onnx_models
from support.admissions import admitting
from support.artifacts import TICKET, artifact_service, version_of
from support.eventually import eventually
from support.mesh_ends import dispatched
from support.placement import placement
from support.runner import TENANT, outputs_of, request_of

CLOCK = SystemClock()
MODEL = onnx_models.counting_loop()
PROTO = version_of("slow", {"model.onnx": MODEL}, instances=2)
VERSION = CatalogVersion(tenant_id=TENANT, uid=PROTO.uid, model="slow", version=1, version_text="1", proto=PROTO)
JOIN_TOKEN = "join-me"


@dataclass
class Mesh:
    """A gateway's side of the mesh and one runner process."""

    dispatcher: Dispatcher
    directory: RunnerDirectory
    process: subprocess.Popen[bytes]
    ready_file: Path

    async def count(self, steps: int) -> int:
        """Has the runner count to `steps`."""
        payload = request_of({"x": np.array(0, np.int64), "y": np.array(steps, np.int64)})
        answer = await dispatched(self.dispatcher, VERSION, payload, timeout_s=30)
        return int(outputs_of(answer.payload)["z"])


def read_url(url: str) -> str:
    with urlopen(url) as response:  # noqa: S310 - the runner's own metrics
        return response.read().decode()


def start_runner(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return subprocess.Popen([sys.executable, "-m", "headrace_runner"], env={**kept, **environment})


@asynccontextmanager
async def mesh(folder: Path, version: CatalogVersion = VERSION, **environment: str) -> AsyncGenerator[Mesh]:
    registry = CollectorRegistry()
    directory = RunnerDirectory(clock=CLOCK)
    wants = Wants(catalog=Catalog(), directory=directory, sign_ticket=lambda _: TICKET, clock=CLOCK, policy=placement())
    handler = RunnerMeshHandler(
        gateway_id="gateway-0",
        admissions=admitting(JOIN_TOKEN),
        directory=directory,
        limits=LaneLimits(),
        budget=ByteBudget(total_bytes=256 << 20),
        load=LoopLoad(),
        clock=CLOCK,
        registry=registry,
    )
    server = GrpcServer(
        listeners=[Listener(address="127.0.0.1:0")], handlers=[handler], runtime=RpcRuntime(registry=registry)
    )
    (address,) = await server.start()
    dispatcher = Dispatcher(
        directory=directory,
        wants=wants,
        clock=CLOCK,
        router=Router(directory=directory, clock=CLOCK, random=random.Random(1), rules=RoutingRules()),
        random=random.Random(1),
        limits=ResilienceLimits(),
    )
    tasks = [asyncio.create_task(directory.watch_heartbeats()), asyncio.create_task(wants.run())]
    token_file = folder / "join.token"
    token_file.write_text(JOIN_TOKEN)
    token_file.chmod(0o600)
    async with artifact_service() as (artifacts, _):
        artifacts.files.update({"model.onnx": MODEL, "stuck.bin": b"stuck"})
        ready_file = folder / "ready.json"
        process = start_runner(
            {
                "HEADRACE_RUNNER_NAME": "runner-7",
                "HEADRACE_RUNNER_GATEWAYS": address,
                "HEADRACE_RUNNER_REGISTRY_ADDRESS": artifacts.address,
                "HEADRACE_RUNNER_CACHE_DIR": str(folder / "cache"),
                "HEADRACE_RUNNER_THREADS": "2",
                "HEADRACE_JOIN_TOKEN_FILE": str(token_file),
                "HEADRACE_READY_FILE": str(ready_file),
                **environment,
            }
        )
        try:
            # A busy machine takes longer to start a process than a call waits for a runner.
            await eventually(lambda: len(directory) > 0, within_s=60)
            yield Mesh(dispatcher, directory, process, ready_file)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.stop(0)


async def test_a_runner_process_joins_serves_and_shows_its_metrics(tmp_path: Path) -> None:
    async with mesh(tmp_path) as running:
        await eventually(running.ready_file.exists)
        assert await asyncio.gather(*(running.count(steps) for steps in range(40))) == list(range(40))
        ready = json.loads(running.ready_file.read_text())
        assert (ready["name"], ready["pid"], "grpc" in ready) == ("runner-7", running.process.pid, False)
        shown = await asyncio.to_thread(read_url, ready["metrics"])
        assert 'headrace_runner_calls_total{model="slow",outcome="ok",tenant="acme",version="1"} 40.0' in shown
        assert "headrace_runner_models_loaded 1.0" in shown


async def test_a_runner_that_is_told_to_stop_finishes_what_it_has_and_exits_0(tmp_path: Path) -> None:
    async with mesh(tmp_path, HEADRACE_SHUTDOWN_GRACE_S="60") as running:
        assert await running.count(3) == 3
        # Two at a time: when the first one has been answered, others have just begun.
        calls = [asyncio.create_task(running.count(300_000 + number)) for number in range(4)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.gather(*calls) == [300_000 + number for number in range(4)]
        assert await asyncio.to_thread(running.process.wait, 30) == 0


async def stops_within(process: subprocess.Popen[bytes], seconds: float) -> int:
    process.send_signal(signal.SIGTERM)
    return await asyncio.to_thread(process.wait, seconds)


@pytest.mark.fault
async def test_a_runner_with_an_endless_execution_stops_soon_after_its_grace(tmp_path: Path) -> None:
    async with mesh(tmp_path, HEADRACE_SHUTDOWN_GRACE_S="1") as running:
        assert await running.count(3) == 3
        endless = asyncio.create_task(running.count(1 << 62))
        await eventually(lambda: sum(session.calls.in_flight for session in running.directory) == 1)
        assert await stops_within(running.process, 20) == 0
        endless.cancel()


@pytest.mark.fault
async def test_a_runner_whose_native_code_cannot_be_stopped_leaves_all_the_same(tmp_path: Path) -> None:
    installed = tmp_path / "packages" / "stuck-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: stuck\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[headrace.backends]\nstuck = support.stuck_backend:StuckBackend\n")
    spec = [TensorSpec(name=name, datatype="FP32", shape=[1]) for name in ("x", "z")]
    proto = version_of(
        "stuck", {"stuck.bin": b"stuck"}, manifest=Manifest(backend="stuck", inputs=spec[:1], outputs=spec[1:])
    )
    version = CatalogVersion(tenant_id=TENANT, uid=proto.uid, model="stuck", version=1, version_text="1", proto=proto)
    path = os.pathsep.join((str(installed.parent), str(Path(onnx_models.__file__).parents[1])))
    async with mesh(tmp_path, version, HEADRACE_SHUTDOWN_GRACE_S="1", PYTHONPATH=path) as running:
        payload = request_of({"x": np.ones(1, np.float32)})
        stuck = asyncio.create_task(dispatched(running.dispatcher, version, payload, timeout_s=30))
        await eventually(lambda: sum(session.calls.in_flight for session in running.directory) == 1)
        assert await stops_within(running.process, 20) == 0
        stuck.cancel()


async def test_a_runner_that_a_gateway_drains_leaves_and_exits_0(tmp_path: Path) -> None:
    async with mesh(tmp_path) as running:
        assert await running.count(3) == 3
        (runner,) = running.directory
        running.directory.drain(runner.id)
        assert await asyncio.to_thread(running.process.wait, 30) == 0
        await eventually(lambda: not len(running.directory))


def test_a_runner_for_a_device_that_nothing_computes_on_says_what_would_change_that(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HEADRACE_RUNNER_DEVICE": "npu",
        "HEADRACE_RUNNER_GATEWAYS": "127.0.0.1:1",
        "HEADRACE_RUNNER_REGISTRY_ADDRESS": "127.0.0.1:1",
        "HEADRACE_RUNNER_CACHE_DIR": str(tmp_path),
    }
    process = subprocess.run(
        [sys.executable, "-m", "headrace_runner"], env=environment, capture_output=True, check=False, timeout=60
    )
    assert process.returncode == 2
    assert b"HEADRACE_RUNNER_DEVICE is npu" in process.stderr
    assert b"onnxruntime: it computes on cpu" in process.stderr


def test_a_runner_without_gateways_names_the_variable_and_exits_2() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "headrace_runner"], env={"PATH": os.environ["PATH"]}, capture_output=True, check=False
    )
    assert process.returncode == 2
    assert b"HEADRACE_RUNNER_GATEWAYS" in process.stderr


async def test_a_runner_whose_gateways_are_away_still_stops_when_told(tmp_path: Path) -> None:
    environment = {
        "HEADRACE_RUNNER_GATEWAYS": "127.0.0.1:1",
        "HEADRACE_RUNNER_REGISTRY_ADDRESS": "127.0.0.1:1",
        "HEADRACE_RUNNER_CACHE_DIR": str(tmp_path / "cache"),
    }
    process = start_runner(environment)
    try:
        await eventually((tmp_path / "cache" / "locks").is_dir, within_s=60)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in RunnerSettings.model_fields.values())
