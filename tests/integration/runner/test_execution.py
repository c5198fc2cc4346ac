"""Queues, deadlines, cancels and failures on loaded models."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.registry.v1.models_pb2 import Version
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.testing import FakeClock
from headrace_runner.calls import Answer
from headrace_runner.execution.pending_call import PendingCall
from headrace_runner.execution.runs import Run
from support import onnx_models
from support.eventually import eventually
from support.gate import Gate
from support.runner import RunnerUnderTest, failure_of, outputs_of, request_of, running_host

# Steps that take about half a second, and a hundredth.
LONG = 500_000
SHORT = 10_000


def steps(count: int) -> bytes:
    return request_of({"x": np.array(0, np.int64), "y": np.array(count, np.int64)})


async def busy(runner: RunnerUnderTest, version: Version, count: int = 1, **call: Any) -> asyncio.Task[Answer]:
    """Starts an execution and waits until it holds its slot."""
    task = asyncio.create_task(runner.answer(runner.call(version, steps(count), **call)))
    await eventually(lambda: runner.metric("executing") == 1)
    return task


async def test_a_full_queue_refuses_with_a_retry_hint(tmp_path: Path, gate: Gate) -> None:
    async with running_host(tmp_path, queue_calls_max=2) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        gate.shut()
        first = await busy(runner, version)
        waiting = [asyncio.create_task(runner.answer(runner.call(version, steps(1)))) for _ in range(2)]
        await eventually(lambda: runner.host.load().queue_depth == 2)
        error = await failure_of(runner.answer(runner.call(version, steps(1))))
        assert error.entry is catalogue.RUNNER_OVERLOADED
        assert error.retry_after_s is not None
        assert error.retry_after_s > 0
        assert runner.metric("calls_total", tenant="acme", model="slow", version="1", outcome="refused") == 1
        gate.open()
        await asyncio.gather(first, *waiting)
        assert (runner.host.load().queue_depth, runner.host.load().in_flight) == (0, 0)


async def test_the_bytes_of_a_queue_are_bounded_too(tmp_path: Path, gate: Gate) -> None:
    async with running_host(tmp_path, queue_bytes_max=10) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        gate.shut()
        first = await busy(runner, version)
        error = await failure_of(runner.answer(runner.call(version, steps(1))))
        assert error.entry is catalogue.RUNNER_OVERLOADED
        gate.open()
        await first


async def test_a_call_that_expires_in_the_queue_is_not_executed(tmp_path: Path, gate: Gate) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        gate.shut()
        first = await busy(runner, version)
        error = await failure_of(runner.answer(runner.call(version, steps(1), timeout_s=0.2)))
        assert error.entry is catalogue.INFERENCE_TIMEOUT
        assert "waiting" in error.message
        assert not first.done()
        assert runner.host.load().queue_depth == 0
        gate.open()
        await first
        assert runner.host.load().in_flight == 0, "nothing was started in its place"


async def test_a_call_that_expires_while_it_executes_is_answered_then_and_frees_its_slot_later(
    tmp_path: Path, gate: Gate
) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        gate.shut()
        call = await busy(runner, version, timeout_s=0.3)
        clock.advance(0.4)
        error = await failure_of(call)
        assert error.entry is catalogue.INFERENCE_TIMEOUT
        assert "executing" in error.message
        assert runner.host.load().in_flight == 1
        gate.open()
        await eventually(lambda: runner.host.load().in_flight == 0)


async def test_a_cancelled_call_leaves_the_queue_or_frees_its_slot_when_the_execution_ends(
    tmp_path: Path, gate: Gate
) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        gate.shut()
        executing = await busy(runner, version)
        waiting = asyncio.create_task(runner.answer(runner.call(version, steps(1))))
        await eventually(lambda: runner.host.load().queue_depth == 1)
        waiting.cancel()
        executing.cancel()
        outcomes = await asyncio.gather(executing, waiting, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert runner.host.load().queue_depth == 0
        assert runner.host.load().in_flight == 1
        after = asyncio.create_task(runner.answer(runner.call(version, steps(7))))
        await eventually(lambda: runner.host.load().queue_depth == 1)
        gate.open()
        assert outputs_of((await after).payload)["z"] == 7
        assert runner.host.load().in_flight == 0


async def test_as_many_calls_execute_at_once_as_the_model_has_instances(tmp_path: Path, gate: Gate) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.counting_loop(), instances=3)
        assert runner.events[-1].execution_slots == 3
        gate.shut()
        calls = [asyncio.create_task(runner.answer(runner.call(version, steps(1)))) for _ in range(4)]
        await eventually(lambda: runner.host.load().queue_depth == 1)
        assert runner.host.load().in_flight == 4
        gate.open()
        await asyncio.gather(*calls)


async def test_the_event_loop_stays_free_while_a_model_computes(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        call = await busy(runner, version, LONG)
        turns = 0
        while not call.done():
            await asyncio.sleep(0)
            turns += 1
        # It makes more than a hundred thousand; a model that held it up would leave it a few.
        assert turns > 100


async def test_a_poisoned_request_harms_no_other(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("gather", onnx_models.failing_on_zero(), instances=2)
        values = np.arange(4, dtype=np.float32)

        async def good(index: int) -> None:
            answer = await runner.infer(version, x=values, y=np.array([index % 4], np.int64))
            assert answer["z"] == values[index % 4]

        async def poisoned(kind: int) -> HeadraceError:
            bad = [
                request_of({"x": values, "y": np.array([99], np.int64)}),
                request_of({"x": values, "y": np.array([1], np.int32)}),
                request_of({"x": values[:3], "y": np.array([1], np.int64)}),
                request_of({"x": values}),
                b"\xff\xff\xff",
            ][kind]
            return await failure_of(runner.answer(runner.call(version, bad)))

        outcomes = await asyncio.gather(
            *(good(index) for index in range(200)), *(poisoned(index % 5) for index in range(50))
        )
        errors = [outcome for outcome in outcomes if outcome is not None]
        assert {error.entry.reason for error in errors} == {
            "MODEL_EXECUTION_FAILED",
            "TENSOR_DATATYPE_MISMATCH",
            "TENSOR_SHAPE_MISMATCH",
            "TENSOR_MISSING",
            "REQUEST_MALFORMED",
        }
        assert not any("ONNX" in error.message or "Gather" in error.message for error in errors)
        assert runner.host.load().in_flight == 0


async def test_a_thousand_random_cancels_leave_everything_as_it_was(tmp_path: Path) -> None:
    randomness = random.Random(20)
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.counting_loop(), instances=2)
        await runner.answer(runner.call(version, steps(1)))
        tasks_before, threads_before = len(asyncio.all_tasks()), threading.active_count()

        async def one(index: int) -> str:
            call = asyncio.create_task(runner.answer(runner.call(version, steps(index))))
            if randomness.random() < 0.9:
                asyncio.get_running_loop().call_later(randomness.random() * 0.2, call.cancel)
            try:
                answer = await call
            except asyncio.CancelledError:
                return "cancelled"
            assert outputs_of(answer.payload)["z"] == index, "everyone gets their own answer"
            return "answered"

        outcomes = await asyncio.gather(*(one(SHORT + index) for index in range(1_000)))
        assert outcomes.count("cancelled") > 300
        assert outcomes.count("answered") > 50
        await eventually(lambda: runner.host.load().in_flight == 0)
        assert runner.host.load().queue_depth == 0
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before)
        assert threading.active_count() <= threads_before + 1
        # A thread lets go of its last run a moment after it told of its end.
        await eventually(nothing_is_left)
        answer = await runner.answer(runner.call(version, steps(5)))
        assert outputs_of(answer.payload)["z"] == 5


def nothing_is_left() -> bool:
    gc.collect()
    return not any(isinstance(item, PendingCall | Run) for item in gc.get_objects())


@pytest.mark.parametrize("datatype", sorted(onnx_models.ELEMENT_TYPES))
async def test_every_datatype_goes_through_the_model_unchanged(tmp_path: Path, datatype: str) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("same", onnx_models.identity(datatype))
        if datatype == "BYTES":
            sent = np.array([[b"", b"plain", "größer".encode(), b"nul\0inside"]], dtype=object)
        elif datatype == "BOOL":
            sent = np.array([[True, False, False, True]])
        else:
            bits = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<u2"}
            sent = np.array([[0, 1, 2, 100]]).astype(bits.get(datatype) or f"<{datatype[0].lower()}{sizes(datatype)}")
        payload = request_of({"x": sent}, datatypes={"x": datatype})
        answer = await runner.answer(runner.call(version, payload))
        assert np.array_equal(outputs_of(answer.payload)["z"], sent)


def sizes(datatype: str) -> int:
    return int(datatype.lstrip("UINT")) // 8


async def test_text_that_is_not_utf8_is_refused_by_element(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("same", onnx_models.identity("BYTES"))
        sent = np.array([[b"a", b"\xff", b"", b""]], dtype=object)
        error = await failure_of(runner.infer(version, x=sent))
        assert error.entry is catalogue.TENSOR_ELEMENT_INVALID
        assert "element 1" in error.message
        assert "'x'" in error.message


async def test_tensors_without_elements_are_answered(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("same", onnx_models.identity())
        answer = await runner.infer(version, x=np.empty((0, 4), np.float32))
        assert answer["z"].shape == (0, 4)


async def test_axes_that_do_not_fit_together_are_the_callers_fault_or_the_models(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("sum", onnx_models.add())
        error = await failure_of(runner.infer(version, x=np.zeros((2, 4), np.float32), y=np.zeros((3, 4), np.float32)))
        assert error.entry in (catalogue.TENSOR_SHAPE_MISMATCH, catalogue.MODEL_EXECUTION_FAILED)
        assert "ONNX" not in error.message
