"""Models that never finish loading or computing: they fail alone, and nothing waits for them for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np
import pytest

from headrace.registry.v1.manifest_pb2 import Manifest, TensorSpec
from headrace.registry.v1.models_pb2 import Version
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.testing import FakeClock
from headrace_runner.backends.contract import Backend
from headrace_runner.backends.discovery import discover
from support import onnx_models
from support.artifacts import version_of
from support.eventually import eventually
from support.runner import RunnerUnderTest, failure_of, request_of, running_host
from support.stuck_backend import StuckBackend

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
MANIFEST = Manifest(
    backend="stuck",
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[1])],
    outputs=[TensorSpec(name="z", datatype="FP32", shape=[1])],
)


@pytest.fixture
def stuck(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generator[StuckBackend]:
    """An installed backend whose loads end only if the test's parameter says so."""
    backend = StuckBackend(loads=request.param)

    def installed(disabled: Iterable[str]) -> dict[str, Backend]:
        return {**discover(disabled), "stuck": backend}

    monkeypatch.setattr("headrace_runner.app.discover", installed)
    yield backend
    backend.released.set()


def stuck_version(runner: RunnerUnderTest) -> Version:
    runner.artifacts.files["stuck.bin"] = b"stuck"
    return version_of("stuck", {"stuck.bin": b"stuck"}, manifest=MANIFEST)


@pytest.mark.parametrize("stuck", [False], indirect=True)
async def test_a_load_that_never_ends_fails_and_others_load_after_it(tmp_path: Path, stuck: StuckBackend) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock, model_load_timeout_s=2.5) as runner:
        version = stuck_version(runner)
        runner.want(version)
        with pytest.raises(HeadraceError) as caught:
            await runner.settled(version.uid)
        assert caught.value.entry is catalogue.MODEL_LOAD_TIMEOUT
        assert "2.5 s" in caught.value.message
        other = await runner.load("other", onnx_models.identity())
        assert np.array_equal((await runner.infer(other, x=ROWS))["z"], ROWS)

        clock.advance(60)
        runner.want(version)
        await eventually(lambda: runner.states(version.uid) == ["LOADING", "FAILED"] * 2)
        assert stuck.begun == 1, "the first load still runs, a second one would only take another thread"

        stuck.released.set()
        await eventually(lambda: [model.closed.is_set() for model in stuck.models] == [True])
        clock.advance(60)
        runner.want(version)
        await runner.settled(version.uid)
        assert stuck.begun == 2


async def test_a_warm_up_that_never_ends_is_interrupted(tmp_path: Path) -> None:
    async with running_host(tmp_path, model_warm_up_timeout_s=0.3) as runner:
        version = await runner.load("endless", onnx_models.endless_loop())
        assert runner.states(version.uid) == ["LOADING", "LOADED"]
        other = await runner.load("other", onnx_models.identity())
        assert np.array_equal((await runner.infer(other, x=ROWS))["z"], ROWS)


async def test_closing_answers_and_interrupts_what_does_not_end_in_the_grace(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        payload = request_of({"x": np.array(0, np.int64), "y": np.array(1 << 62, np.int64)})
        calls = [asyncio.create_task(runner.answer(runner.call(version, payload))) for _ in range(2)]
        await eventually(lambda: runner.host.load().in_flight == 2)
        assert await runner.host.close(grace_s=0.1)
        for call in calls:
            assert (await failure_of(call)).entry is catalogue.RUNNER_DRAINING


@pytest.mark.parametrize("stuck", [True], indirect=True)
async def test_closing_tells_of_executions_that_cannot_be_stopped(tmp_path: Path, stuck: StuckBackend) -> None:
    async with running_host(tmp_path) as runner:
        version = stuck_version(runner)
        runner.want(version)
        await runner.settled(version.uid)
        call = asyncio.create_task(runner.infer(version, x=np.ones(1, np.float32)))
        await eventually(lambda: runner.host.load().in_flight == 1)
        assert not await runner.host.close(grace_s=0.1)
        assert (await failure_of(call)).entry is catalogue.RUNNER_DRAINING
        assert not stuck.models[0].closed.is_set()
