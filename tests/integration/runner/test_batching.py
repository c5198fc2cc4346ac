"""Calls that share executions: who does, what each gets, and what happens when one of them is bad."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from numpy.typing import NDArray

from headrace.registry.v1.manifest_pb2 import PriorityQueuePolicy, QueuePolicy
from headrace.registry.v1.models_pb2 import Version
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_runner.calls import Answer
from inference import open_inference_pb2 as pb
from support import onnx_models
from support.eventually import eventually
from support.gate import Gate
from support.runner import RunnerUnderTest, batched_manifest, failure_of, outputs_of, request_of, running_host

# Steps that take about a tenth of a second.
SLOW = 100_000


def executions(runner: RunnerUnderTest, model: str) -> float:
    return runner.metric("batch_rows_count", tenant="acme", model=model, version="1")


def rows_of(count: int, value: float) -> NDArray[Any]:
    return np.full((count, 4), value, np.float32)


async def together(runner: RunnerUnderTest, version: Version, *payloads: bytes) -> list[Answer | BaseException]:
    """Sends calls in one turn of the event loop."""
    calls = (runner.answer(runner.call(version, payload)) for payload in payloads)
    return await asyncio.gather(*calls, return_exceptions=True)


async def busy(runner: RunnerUnderTest, version: Version) -> asyncio.Task[Answer]:
    """Takes the only slot for a while."""
    call = asyncio.create_task(runner.answer(runner.call(version, request_of({"x": rows_of(1, 0)}))))
    await eventually(lambda: runner.metric("executing") == 1)
    return call


async def test_calls_of_one_turn_share_an_execution_and_each_gets_its_rows(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("tiny", onnx_models.tiny(), manifest=batched_manifest())
        sizes = [1, 3, 0, 2, 1, 7]
        sent = [np.random.default_rng(size).random((size, 16)).astype(np.float32) for size in sizes]
        answers = await together(runner, version, *(request_of({"x": x}) for x in sent))
        for x, answer in zip(sent, answers, strict=True):
            assert isinstance(answer, Answer)
            np.testing.assert_allclose(outputs_of(answer.payload)["z"], x @ onnx_models.tiny_weights(), rtol=1e-5)
            assert (answer.rows, answer.batch_calls) == (14, 6)
            assert answer.share_us is not None
            assert abs(answer.share_us - answer.compute_us * len(x) / 14) < 1
        shared = [answer for answer in answers if isinstance(answer, Answer)]
        assert sum(answer.share_us or 0 for answer in shared) == shared[0].compute_us
        assert sum(answer.leads_batch for answer in shared) == 1
        assert executions(runner, "tiny") == 1


async def test_texts_identifiers_and_forms_stay_each_callers_own(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("same", onnx_models.identity("BYTES"), manifest=batched_manifest())
        texts = [np.array([[f"{row}-{column}".encode() for column in range(4)]], dtype=object) for row in range(3)]
        typed = pb.ModelInferRequest.FromString(request_of({"x": texts[2]}))
        typed.outputs.add(name="z").parameters["binary_data"].bool_param = False
        answers = await together(
            runner,
            version,
            request_of({"x": texts[0]}, request_id="first"),
            request_of({"x": texts[1]}),
            typed.SerializeToString(),
        )
        responses = [pb.ModelInferResponse.FromString(bytes(a.payload)) for a in answers if isinstance(a, Answer)]
        assert [response.id for response in responses] == ["first", "", ""]
        assert outputs_of(responses[0].SerializeToString())["z"].tolist() == texts[0].tolist()
        assert outputs_of(responses[1].SerializeToString())["z"].tolist() == texts[1].tolist()
        assert list(responses[2].outputs[0].contents.bytes_contents) == texts[2].reshape(-1).tolist()
        assert executions(runner, "same") == 1


async def test_large_rows_are_put_together_and_split_exactly(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("add", onnx_models.add(("batch", 50_000)), manifest=batched_manifest())
        sent = [np.full((size, 50_000), size, np.float32) for size in (1, 2, 3)]
        answers = await together(runner, version, *(request_of({"x": x, "y": x}) for x in sent))
        for x, answer in zip(sent, answers, strict=True):
            assert isinstance(answer, Answer)
            assert (outputs_of(answer.payload)["z"] == 2 * x).all()
        assert executions(runner, "add") == 1


async def test_only_the_poisoned_call_of_a_batch_fails(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("lookup", onnx_models.lookup(), manifest=batched_manifest())
        indices = [0, 1, 99, 3, 2]
        answers = await together(
            runner, version, *(request_of({"x": np.array([index], np.int64)}) for index in indices)
        )
        for index, answer in zip(indices, answers, strict=True):
            if index == 99:
                assert isinstance(answer, HeadraceError)
                assert answer.entry is catalogue.MODEL_EXECUTION_FAILED
            else:
                assert isinstance(answer, Answer)
                assert outputs_of(answer.payload)["z"].tolist() == [index * 10]
                assert (answer.rows, answer.leads_batch) == (1, True)
        assert runner.metric("executions_repeated_total", tenant="acme", model="lookup", version="1") == 5


async def test_nan_and_infinity_of_one_call_don_t_reach_another(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("tiny", onnx_models.tiny(), manifest=batched_manifest())
        bad, good = np.full((1, 16), np.nan, np.float32), np.ones((1, 16), np.float32)
        bad[0, 3] = np.inf
        answers = await together(runner, version, request_of({"x": bad}), request_of({"x": good}))
        outputs = [outputs_of(answer.payload)["z"] for answer in answers if isinstance(answer, Answer)]
        assert np.isnan(outputs[0]).all()
        assert np.isfinite(outputs[1]).all()


async def test_a_model_whose_first_call_has_no_rows_goes_on(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("tiny", onnx_models.tiny(), manifest=batched_manifest())
        for rows in (0, 2):
            answer = await runner.answer(runner.call(version, request_of({"x": np.ones((rows, 16), np.float32)})))
            assert outputs_of(answer.payload)["z"].shape == (rows, 16)


async def test_what_a_caller_s_end_raises_harms_no_other_call(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("tiny", onnx_models.tiny(), manifest=batched_manifest())
        payload = request_of({"x": np.ones((1, 16), np.float32)})

        def failing(_outcome: object) -> None:
            raise RuntimeError("the caller is broken")

        runner.host.begin(runner.call(version, payload), failing)
        assert (await runner.answer(runner.call(version, payload))).batch_calls == 2
        assert (await runner.answer(runner.call(version, payload))).batch_calls == 1


async def test_outputs_that_can_not_be_split_are_computed_call_by_call(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("sum", onnx_models.sum_of_rows(), manifest=batched_manifest())
        for _ in range(2):
            answers = await together(runner, version, *(request_of({"x": rows_of(2, value)}) for value in (1, 2, 3)))
            sums = [outputs_of(answer.payload)["z"][0, 0] for answer in answers if isinstance(answer, Answer)]
            assert sums == [2, 4, 6]
        assert runner.metric("executions_repeated_total", tenant="acme", model="sum", version="1") == 3


async def test_a_cancelled_call_does_not_fail_its_batch(tmp_path: Path, gate: Gate) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.slow_rows(9), manifest=batched_manifest())
        gate.shut()
        calls = [
            asyncio.create_task(runner.answer(runner.call(version, request_of({"x": rows_of(1, value)}))))
            for value in range(4)
        ]
        await eventually(lambda: runner.metric("executing") == 1)
        calls[1].cancel()
        await asyncio.wait(calls[1:2])
        gate.open()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers.pop(1), asyncio.CancelledError)
        values = [outputs_of(answer.payload)["z"][0, 0] for answer in answers if isinstance(answer, Answer)]
        assert values == [9, 11, 12]


@pytest.mark.parametrize(
    ("payload", "entry"),
    [
        (request_of({"x": rows_of(2, 1), "y": rows_of(3, 1)}), catalogue.TENSOR_SHAPE_MISMATCH),
        (request_of({"x": rows_of(5, 1), "y": rows_of(5, 1)}), catalogue.TENSOR_BATCH_TOO_LARGE),
    ],
    ids=["different numbers of rows", "more rows than a batch"],
)
async def test_rows_that_don_t_fit_are_refused(tmp_path: Path, payload: bytes, entry: catalogue.CatalogueEntry) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("add", onnx_models.add(), manifest=batched_manifest(rows=4))
        assert (await failure_of(runner.answer(runner.call(version, payload)))).entry is entry


async def test_a_batch_waits_for_company_as_long_as_the_manifest_says(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        payload = request_of({"x": np.ones((1, 16), np.float32)})
        patient = await runner.load("patient", onnx_models.tiny(), manifest=batched_manifest(rows=2, delay_s=15.0))
        first = asyncio.create_task(runner.answer(runner.call(patient, payload)))
        await eventually(lambda: runner.metric("queue_depth") == 1)
        second = await runner.answer(runner.call(patient, payload))
        assert (second.rows, (await first).rows) == (2, 2)
        version = await runner.load("tiny", onnx_models.tiny(), manifest=batched_manifest(rows=2, delay_s=0.5))
        alone = await runner.answer(runner.call(version, payload))
        assert (alone.rows, alone.queue_us > 450_000) == (1, True)


async def test_urgent_calls_pass_those_that_wait(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.slow_rows(SLOW // 4), manifest=batched_manifest(rows=1))
        order: list[int] = []

        async def one(priority: int) -> None:
            await runner.answer(runner.call(version, request_of({"x": rows_of(1, 1)}), priority=priority))
            order.append(priority)

        # All in one turn of the event loop, so that all wait: whatever the only slot is given to first, it is urgent.
        await asyncio.gather(*(one(priority) for priority in (9, 0, 5, 9, 4)))
        assert order == [9, 9, 5, 4, 0]


async def test_a_call_may_wait_only_as_long_as_its_priority_s_policy_says(tmp_path: Path, gate: Gate) -> None:
    queue = QueuePolicy(
        timeout=Duration(seconds=30), priorities=[PriorityQueuePolicy(priority=1, timeout=Duration(nanos=50_000_000))]
    )
    async with running_host(tmp_path) as runner:
        manifest = batched_manifest(rows=1, queue=queue)
        version = await runner.load("slow", onnx_models.slow_rows(1), manifest=manifest)
        gate.shut()
        first = await busy(runner, version)
        patient = asyncio.create_task(runner.answer(runner.call(version, request_of({"x": rows_of(1, 1)}))))
        call = runner.call(version, request_of({"x": rows_of(1, 1)}), priority=1)
        error = await failure_of(runner.answer(call))
        assert error.entry is catalogue.QUEUE_TIMEOUT
        assert error.retry_after_s
        assert not first.done()
        gate.open()
        await asyncio.gather(first, patient)


async def test_what_can_not_be_in_time_is_refused_at_once(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.slow_rows(SLOW), manifest=batched_manifest())
        payload = request_of({"x": rows_of(1, 1)})
        # The least of some: one of them may take far longer than the runner expects of the next.
        took_us = [(await runner.answer(runner.call(version, payload))).compute_us for _ in range(3)]
        call = runner.call(version, payload, timeout_s=min(took_us) / 4e6)
        error = await failure_of(runner.answer(call))
        assert error.entry is catalogue.DEADLINE_UNREACHABLE
        assert executions(runner, "slow") == 3
