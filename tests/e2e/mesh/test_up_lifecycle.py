"""`headrace up` from the outside: what it writes, how it ends, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import psutil
import psycopg
import pytest

from headrace.gateway.v1.mesh_pb2 import DrainRunnerRequest, ListRunnersRequest
from headrace.gateway.v1.mesh_pb2_grpc import MeshServiceStub
from inference.open_inference_pb2 import ServerReadyRequest
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.folders import open_folder
from support.mesh import HEADRACE, Mesh, running_mesh

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


def read_ready(folder: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((folder / "ready.json").read_text()))


def pids_by_name(folder: Path) -> dict[str, int]:
    return {process["name"]: process["pid"] for process in read_ready(folder)["processes"]}


def descendants(mesh: Mesh) -> list[psutil.Process]:
    supervisor = psutil.Process(mesh.supervisor.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], object], *, within_s: float) -> float:
    """Waits for the condition and returns how long that took."""
    started_at = time.monotonic()
    while not condition():
        assert time.monotonic() < started_at + within_s
        time.sleep(0.05)
    return time.monotonic() - started_at


def assert_orderly(mesh: Mesh) -> None:
    """The supervisor has ended by itself, and nobody had to be killed for it."""
    said = mesh.log.read_text()
    assert mesh.supervisor.returncode == 0, said
    assert "did not stop in time" not in said


def answers(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        try:
            return stub.ServerReady(ServerReadyRequest(), timeout=20).ready
        except grpc.RpcError:
            return False


def drain(mesh: Mesh, name: str) -> None:
    """Asks a runner to leave, as an operator."""
    operator = (("x-api-key", (mesh.state_dir / "secrets" / "admin.key").read_text().strip()),)
    with grpc.insecure_channel(mesh.grpc) as channel:
        stub = MeshServiceStub(channel)
        runners = stub.ListRunners(ListRunnersRequest(), metadata=operator, timeout=5).runners
        (runner_id,) = (runner.id for runner in runners if runner.name == name)
        stub.DrainRunner(DrainRunnerRequest(id=runner_id), metadata=operator, timeout=5)


def command(*arguments: str, mesh: Mesh, api_key: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HEADRACE_ENDPOINT": mesh.grpc, "HEADRACE_API_KEY": api_key or mesh.api_key}
    return subprocess.run(
        [str(HEADRACE), *arguments], check=False, capture_output=True, text=True, timeout=90, env=environment
    )


def test_the_ready_file_describes_a_mesh_that_answers_and_sigterm_leaves_nothing(folder: Path) -> None:
    with running_mesh(folder, "--runners", "1", http=True) as mesh:
        ready = read_ready(folder)
        names = {process["name"] for process in ready["processes"]}
        assert names == {"postgres", "valkey", "quota", "registry", "gateway-0", "http-0", "runner-0"}
        assert ready["api_key"] == "community"
        assert answers(ready["grpc"])
        with urllib.request.urlopen(f"{ready['http']}/ready", timeout=20) as page:  # noqa: S310 - loopback
            assert page.read() == b'{"status":"UP"}'
        for process in ready["processes"]:
            assert psutil.pid_exists(process["pid"])
            if process["name"] not in {"postgres", "valkey"}:
                with urllib.request.urlopen(process["metrics"], timeout=20) as page:  # noqa: S310 - loopback
                    assert b"# TYPE" in page.read()
        everyone = descendants(mesh)
        assert len(everyone) > len(names)
        mesh.supervisor.send_signal(signal.SIGTERM)
        assert mesh.supervisor.wait(60) == 0
        until(lambda: not any(alive(process) for process in everyone), within_s=10)
        assert not (folder / "ready.json").exists()
        assert "stopped in" in mesh.log.read_text()
        assert_orderly(mesh)


@pytest.mark.fault
def test_killing_the_supervisor_leaves_nothing(folder: Path) -> None:
    with running_mesh(folder, "--runners", "1", "--no-samples") as mesh:
        everyone = descendants(mesh)
        assert any("postgres:" in " ".join(process.cmdline()) for process in everyone)
        mesh.supervisor.kill()
        mesh.supervisor.wait()
        until(lambda: not any(alive(process) for process in everyone), within_s=5)
    # Nobody was left to remove it.
    (folder / "ready.json").unlink()
    with running_mesh(folder, "--runners", "1", "--no-samples") as again:
        assert answers(again.grpc)
    assert_orderly(again)


@pytest.mark.fault
def test_every_service_that_is_killed_comes_back_where_it_was(folder: Path) -> None:
    with running_mesh(folder, "--runners", "1") as mesh:
        before = {process["name"]: process for process in read_ready(folder)["processes"]}
        for name in ("runner-0", "gateway-0", "registry", "quota", "valkey", "postgres"):
            os.kill(before[name]["pid"], signal.SIGKILL)
            until(lambda name=name: pids_by_name(folder).get(name) not in {None, before[name]["pid"]}, within_s=30)
        until(
            lambda: command("infer", "magika", "-i", json.dumps([[0] * 2048]), mesh=mesh).returncode == 0, within_s=60
        )
        after = {process["name"]: process for process in read_ready(folder)["processes"]}
        for name, process in after.items():
            assert {**process, "pid": 0} == {**before[name], "pid": 0}
        said = mesh.log.read_text()
        assert said.count("was ended by SIGKILL") >= 6
        assert "runner-0 is back" in said
        drain(mesh, "runner-0")
        until(lambda: pids_by_name(folder).get("runner-0") not in {None, after["runner-0"]["pid"]}, within_s=30)
        assert "was drained and left; starting it again" in mesh.log.read_text()
    assert_orderly(mesh)


@pytest.mark.fault
def test_two_meshes_live_side_by_side_and_share_nothing(mesh: Mesh, folder: Path) -> None:
    with running_mesh(folder, "--runners", "1", "--no-samples") as other:
        assert other.grpc != mesh.grpc
        assert "no models yet" in command("models", "list", mesh=other).stdout
    assert_orderly(other)
    assert "magika" in command("models", "list", mesh=mesh).stdout


@pytest.mark.fault
def test_servers_of_ones_own_are_used_and_none_is_started(folder: Path, database_url: str, valkey_url: str) -> None:
    artefacts = folder / "artefacts"
    artefacts.mkdir()
    environment = {
        "HEADRACE_POSTGRES_URL": database_url,
        "HEADRACE_REDIS_URL": valkey_url,
        "HEADRACE_STORAGE_URL": str(artefacts),
    }
    with running_mesh(folder, "--runners", "1", environment=environment) as mesh:
        assert set(pids_by_name(folder)) == {"quota", "registry", "gateway-0", "runner-0"}
        with psycopg.connect(database_url) as connection:
            schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname IN ('quota', 'registry')")
            assert len(schemas.fetchall()) == 2
        assert any(path.is_file() for path in artefacts.rglob("*"))
        assert not (folder / "state" / "postgres").exists()
    assert_orderly(mesh)


def test_an_interruption_during_the_start_stops_cleanly(folder: Path) -> None:
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [str(HEADRACE), "up", "--state-dir", str(folder / "state"), "--grpc-port", "0"], stdout=log, stderr=log
        )
    try:
        until(lambda: "postgres" in (folder / "up.log").read_text(), within_s=60)
        until(lambda: psutil.Process(up.pid).children(), within_s=60)
        everyone = psutil.Process(up.pid).children(recursive=True)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
        until(lambda: not any(alive(process) for process in everyone), within_s=10)
    finally:
        up.kill()
        up.wait()
