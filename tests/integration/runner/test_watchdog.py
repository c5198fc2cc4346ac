"""Executions that take longer than they may: their callers are told, and the model goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from headrace.registry.v1.manifest_pb2 import ExecutionPolicy, Manifest, TensorSpec
from headrace_common import catalogue
from headrace_common.testing import FakeClock
from headrace_runner.backends.contract import Backend
from headrace_runner.backends.discovery import discover
from support import onnx_models
from support.artifacts import version_of
from support.eventually import eventually
from support.runner import batched_manifest, failure_of, outputs_of, request_of, running_host
from support.stuck_backend import StuckBackend

ENDLESS = request_of({"x": np.array(0, np.int64), "y": np.array(1 << 62, np.int64)})
SHORT = request_of({"x": np.array(0, np.int64), "y": np.array(7, np.int64)})
TWO_SECONDS = Duration(seconds=2)


async def passing(clock: FakeClock, until: Callable[[], bool]) -> None:
    """Lets time pass until the condition holds."""
    async with asyncio.timeout(30):
        while not until():
            clock.advance(0.1)
            await asyncio.sleep(0.01)


async def test_an_endless_execution_is_interrupted_and_the_next_call_is_answered(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock, execution_timeout_s=1.2) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        endless = asyncio.create_task(failure_of(runner.answer(runner.call(version, ENDLESS))))
        await passing(clock, endless.done)
        error = await endless
        assert error.entry is catalogue.EXECUTION_TIMEOUT
        assert error.context["timeout_s"] == "1.2"
        answer = await runner.answer(runner.call(version, SHORT))
        assert outputs_of(answer.payload)["z"] == 7
        assert runner.metric("executions_given_up_total", tenant="acme", model="slow", version="1") == 1


async def test_the_manifest_s_limit_counts_before_the_runner_s(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock) as runner:
        manifest = batched_manifest(timeout=TWO_SECONDS)
        manifest.batched = False
        version = await runner.load("slow", onnx_models.counting_loop(), manifest=manifest)
        endless = asyncio.create_task(failure_of(runner.answer(runner.call(version, ENDLESS))))
        await passing(clock, endless.done)
        assert (await endless).context["timeout_s"] == "2"


async def test_other_instances_of_the_model_are_not_interrupted(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock, execution_timeout_s=2.0) as runner:
        version = await runner.load("slow", onnx_models.counting_loop(), instances=2)
        endless = asyncio.create_task(failure_of(runner.answer(runner.call(version, ENDLESS))))
        await eventually(lambda: runner.metric("executing") == 1)
        while not endless.done():
            # Half a second of them, so that some are executed at that moment.
            clock.advance(0.004)
            assert outputs_of((await runner.answer(runner.call(version, SHORT))).payload)["z"] == 7
        assert (await endless).entry is catalogue.EXECUTION_TIMEOUT


async def test_an_execution_that_can_not_be_stopped_loses_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = StuckBackend()

    def installed(disabled: Iterable[str]) -> dict[str, Backend]:
        return {**discover(disabled), "stuck": backend}

    monkeypatch.setattr("headrace_runner.app.discover", installed)
    manifest = Manifest(
        backend="stuck",
        inputs=[TensorSpec(name="x", datatype="FP32", shape=[1])],
        outputs=[TensorSpec(name="z", datatype="FP32", shape=[1])],
        execution=ExecutionPolicy(timeout=TWO_SECONDS),
    )
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock) as runner:
        runner.artifacts.files["stuck.bin"] = b"stuck"
        version = version_of("stuck", {"stuck.bin": b"stuck"}, manifest=manifest)
        runner.want(version)
        await runner.settled(version.uid)
        payload = request_of({"x": np.ones(1, np.float32)})
        stuck = asyncio.create_task(failure_of(runner.answer(runner.call(version, payload))))
        await passing(clock, stuck.done)
        assert (await stuck).entry is catalogue.EXECUTION_TIMEOUT
        await passing(clock, lambda: runner.metric("executing") == 0)
        # The next one gets a thread of its own, and is answered once the backend lets go.
        next_call = asyncio.create_task(runner.answer(runner.call(version, payload)))
        await eventually(lambda: runner.metric("executing") == 1)
        backend.released.set()
        assert outputs_of((await next_call).payload)["z"] == 1
