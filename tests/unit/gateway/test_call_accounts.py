"""What is reserved for a call, written down of it, and settled, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.v1 import generation_pb2 as generation
from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord
from headrace.quota.v1 import usage_pb2
from headrace_common import catalogue
from headrace_common.errors import DeviceUnavailable, HeadraceError, ModelError, QuotaExceeded
from headrace_gateway.accounting.spool import spool_full
from headrace_gateway.inference.call import Caller, InferenceCall
from headrace_gateway.quota.amounts import Amounts
from inference import open_inference_pb2 as oip
from support.failing_runners import Stage, assert_idle
from support.gateway_core import GatewayCore
from support.generated_texts import GENERATES, delta, last
from support.generation_stage import GenerationStage
from support.permits import Permits

OK, FAILED, CANCELLED = (
    usage_pb2.REQUEST_STATUS_OK,
    usage_pb2.REQUEST_STATUS_FAILED,
    usage_pb2.REQUEST_STATUS_CANCELLED,
)
OUT_OF_MEMORY = DeviceUnavailable("full", entry=catalogue.DEVICE_OUT_OF_MEMORY)
BROKEN = ModelError("broken", entry=catalogue.MODEL_EXECUTION_FAILED)
EXCEEDED = QuotaExceeded("enough", retry_after_s=1.0)
REQUEST = oip.ModelInferRequest(model_name="m").SerializeToString()


def row_of(stage: Stage | GenerationStage) -> CallRecord:
    (row,) = stage.core.log.rows
    return row


def test_an_answered_call_is_one_row_with_what_it_used() -> None:
    stage = Stage(runners=1)
    told = stage.begin()
    (admitted,) = stage.core.log.open.values()
    assert (admitted.tenant_id, admitted.model, admitted.version, admitted.kind) == ("acme", "m", "1", "unary")
    assert (admitted.input_bytes, admitted.request_id, admitted.summed) == (len(REQUEST), "r", False)
    assert not stage.core.log.rows
    (call,) = stage.runners[0].received()
    stage.core.clock.advance(0.5)
    stage.runners[0].answer(call, b"four", compute_us=3_000)
    assert told.reason == "OK"
    row = row_of(stage)
    assert (row.error_reason, row.status, row.runner_id, row.device_type) == ("", OK, "runner-0.boot", "cpu")
    assert (row.tenant_id, row.model, row.version, row.kind) == ("acme", "m", "1", "unary")
    ended = row
    assert (ended.input_bytes, ended.output_bytes, ended.attempts) == (len(REQUEST), 4, 1)
    assert (ended.queue_us, ended.execution_us, ended.device_ms) == (10, 3_000, 3.0)
    assert ended.total_us == 500_000
    assert ended.request_id == "r"
    assert_idle(stage)


def test_retries_and_copies_are_attempts_of_one_row() -> None:
    stage = Stage(runners=2)
    stage.begin()
    first = stage.holder()
    first.answer(first.received()[0], failure=OUT_OF_MEMORY)
    second = stage.holder()
    assert second is not first
    second.answer(second.received()[0])
    row = row_of(stage)
    assert (row.status, row.attempts, row.runner_id) == (OK, 2, second.session.id)
    hedged = Stage(hedge_after_s=0.05)
    hedged.begin()
    slow = hedged.holder()
    hedged.core.pass_time(0.15)
    fast = hedged.holder(but=slow)
    fast.answer(fast.received()[0])
    slow.answer(slow.received()[0])
    row = row_of(hedged)
    assert (row.status, row.attempts, row.runner_id) == (OK, 2, fast.session.id)


@pytest.mark.parametrize("way", ["cancel", "expire", "fail", "give up", "lost"])
def test_every_other_end_is_one_row_too(way: str) -> None:
    book = Permits(10)
    stage = Stage(runners=1, book=book)
    told = stage.begin()
    call, runner = told.call, stage.runners[0]
    (sent,) = runner.received()
    if way == "cancel":
        stage.core.handler.cancel(call)
    elif way == "expire":
        stage.core.pass_time(31)
    elif way == "fail":
        runner.answer(sent, failure=BROKEN)
    elif way == "give up":
        stage.core.handler.give_up_all(spool_full())
    else:
        runner.session.close()
        stage.core.pass_time(31)
    row = row_of(stage)
    assert row.status == (CANCELLED if way == "cancel" else FAILED)
    assert row.error_reason == (catalogue.CALL_CANCELLED.reason if way == "cancel" else told.reason)
    assert book.settled == [Amounts(1, 0, len(REQUEST), 0)]
    # Whatever is told later changes nothing.
    stage.core.handler.cancel(call)
    if way in ("cancel", "expire", "give up"):
        runner.received()
        runner.answer(sent)
    assert (len(stage.core.log.rows), len(book.settled)) == (1, 1)
    assert_idle(stage)


def test_calls_that_are_refused_leave_no_row_and_hold_nothing() -> None:
    book = Permits(10)
    stage = Stage(runners=1, book=book)
    with pytest.raises(HeadraceError, match="not found"):
        stage.begin("unknown")
    stage.core.log.full = spool_full()
    with pytest.raises(HeadraceError) as refusal:
        stage.begin()
    assert refusal.value.reason == "SPOOL_FULL"
    stage.core.log.full = None
    book.refusal = EXCEEDED
    with pytest.raises(HeadraceError) as refusal:
        stage.begin()
    assert refusal.value is EXCEEDED
    assert (stage.core.log.admissions, book.held, book.settled) == (0, [], [])
    assert stage.core.payloads.held_bytes == 0


def test_a_call_that_the_dispatcher_refuses_gives_back_what_was_reserved() -> None:
    book = Permits(1_000)
    stage = Stage(runners=1, book=book)
    for _ in range(1_000):
        try:
            stage.begin()
        except HeadraceError:
            break
    else:
        pytest.fail("there is a bound")
    assert book.settled == [None]
    assert len(book.held) == stage.core.log.admissions


async def test_a_call_waits_for_a_grant_and_goes_on_with_it() -> None:
    book = Permits(0)
    stage = Stage(runners=1, book=book)
    told = stage.begin()
    await asyncio.sleep(0)
    assert not stage.runners[0].received()
    assert not stage.core.log.admissions
    stage.core.clock.advance(0.25)
    book.grant()
    await settled()
    (sent,) = stage.runners[0].received()
    assert stage.core.log.admissions == 1
    stage.runners[0].answer(sent)
    assert told.reason == "OK"
    # It was admitted when it was granted.
    assert row_of(stage).total_us == 0
    assert_idle(stage)


@pytest.mark.parametrize("way", ["refused", "cancelled", "expired", "full"])
async def test_a_call_that_waits_for_a_grant_in_vain_leaves_no_row(way: str) -> None:
    book = Permits(0)
    stage = Stage(runners=1, book=book)
    told = stage.begin(timeout_s=1.0)
    await asyncio.sleep(0)
    if way == "refused":
        book.refuse(EXCEEDED)
    elif way == "cancelled":
        stage.core.handler.cancel(told.call)
    elif way == "expired":
        stage.core.pass_time(1.1)
    else:
        stage.core.log.full = spool_full()
        book.grant()
    await settled()
    assert [outcome.reason for outcome in told if isinstance(outcome, HeadraceError)] == {
        "refused": [EXCEEDED.reason],
        "cancelled": [],
        "expired": ["INFERENCE_TIMEOUT"],
        "full": ["SPOOL_FULL"],
    }[way]
    assert not book.held
    assert (stage.core.log.admissions, stage.core.payloads.held_bytes) == (0, 0)
    assert not stage.runners[0].received()
    assert_idle(stage)


async def test_refused_calls_leave_nothing_to_the_collector() -> None:
    book = Permits(0)
    stage = Stage(runners=1, book=book)
    told = stage.begin()
    await asyncio.sleep(0)
    book.refuse(QuotaExceeded("enough"))
    await settled()
    told.clear()
    del told
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            told = stage.begin()
            await asyncio.sleep(0)
            book.refuse(QuotaExceeded("enough"))
            await settled()
            told.clear()
            del told
            book.refusal = QuotaExceeded("enough")
            with contextlib.suppress(HeadraceError):
                stage.begin()
            book.refusal = None
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [found for found in gc.garbage if isinstance(found, InferenceCall | HeadraceError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_estimates_follow_what_calls_have_taken() -> None:
    book = Permits(100)
    stage = Stage(runners=1, book=book)
    for compute_us in (2_400, 2_400, 600):
        stage.begin()
        (sent,) = stage.runners[0].received()
        stage.runners[0].answer(sent, compute_us=compute_us)
    # Parts of a millisecond that are cut off one call are counted with a later one.
    assert [amounts.device_ms for amounts in book.settled if amounts is not None] == [2, 2, 1]
    stage.core.accounts.refresh()
    stage.begin()
    assert book.held[0].estimate == Amounts(1, 0, len(REQUEST), 3)
    (estimate,) = stage.core.log.open.values()
    assert estimate.device_ms == pytest.approx(2.22)


@pytest.mark.parametrize(("share_us", "device_ms"), [(1_500, 1.5), (0, 0.0), (None, 1.0)])
def test_calls_of_one_execution_share_its_time(share_us: int | None, device_ms: float) -> None:
    core = GatewayCore()
    runner = core.join()
    runner.loaded(core.register("m"))
    core.handler.begin(REQUEST, Caller("acme", "r", "", 30.0), lambda _call, _outcome: None)
    (sent,) = runner.received()
    runner.answer(sent, compute_us=4_000, calls=4, share_us=share_us)
    (row,) = core.log.rows
    assert (row.device_ms, row.execution_us) == (device_ms, 4_000)


@pytest.mark.parametrize(
    ("asked", "tokens"), [(generation.SamplingParameters(max_tokens=7), 7), (generation.SamplingParameters(), 256)]
)
async def test_generations_are_reserved_by_what_they_may_generate(
    asked: generation.SamplingParameters, tokens: int
) -> None:
    book = Permits(10)
    stage = GenerationStage(runners=1, book=book)
    call = stage.begin(completions=2, sampling=asked)
    prompt = call.request_bytes // 4
    assert book.held[0].estimate.tokens == prompt + 2 * tokens
    (admitted,) = stage.core.log.open.values()
    assert (admitted.kind, admitted.prompt_tokens, admitted.completion_tokens) == ("generate", prompt, 2 * tokens)


async def test_a_generation_is_charged_what_it_has_generated() -> None:
    book = Permits(10)
    stage = GenerationStage(runners=1, book=book)
    call = stage.begin()
    runner, sent = stage.at()
    runner.part(sent, delta("ab", 1, 2))
    runner.answer(sent, last("c", 3, prompt=5, completion=3))
    ended = row_of(stage)
    assert (ended.prompt_tokens, ended.completion_tokens, ended.status) == (5, 3, OK)
    assert ended.output_bytes == sum(message.ByteSize() for message in stage.messages)
    assert (ended.input_bytes, book.settled[0]) == (call.request_bytes, Amounts(1, 8, call.request_bytes, 0))


async def test_a_generation_that_is_cancelled_is_charged_what_came_of_it() -> None:
    stage = GenerationStage(runners=1)
    call = stage.begin()
    runner, sent = stage.at()
    runner.part(sent, delta("ab", 1, 2))
    stage.core.handler.cancel(call)
    ended = row_of(stage)
    assert (ended.prompt_tokens, ended.completion_tokens, ended.status) == (call.request_bytes // 4, 2, CANCELLED)


async def test_tokens_of_a_model_that_generates_count_in_the_open_protocol_too() -> None:
    core = GatewayCore()
    runner = core.join()
    runner.loaded(core.register("m", manifest=GENERATES))
    request = oip.ModelInferRequest(model_name="m")
    request.parameters["max_tokens"].int64_param = 9
    core.handler.begin(
        request.SerializeToString(),
        Caller("acme", "r", "", 30.0, kind="stream"),
        lambda _call, _outcome: None,
        sink=lambda _call, _message: None,
    )
    (admitted,) = core.log.open.values()
    assert (admitted.kind, admitted.completion_tokens) == ("stream", 9)
    (sent,) = runner.received()
    runner.part(sent, oip.ModelInferResponse(model_name="m").SerializeToString())
    final = oip.ModelInferResponse(model_name="m")
    final.parameters["prompt_tokens"].int64_param = 11
    final.parameters["completion_tokens"].int64_param = 6
    runner.answer(sent, final.SerializeToString())
    (row,) = core.log.rows
    assert (row.prompt_tokens, row.completion_tokens) == (11, 6)


def test_streams_are_marked_as_the_plan_says_within_a_second() -> None:
    core = GatewayCore()
    runner = core.join()
    runner.loaded(core.register("m"))
    for expected in (False, True, False):
        core.handler.begin(REQUEST, Caller("acme", "r", "", 30.0, kind="stream"), lambda _call, _outcome: None)
        (admitted,) = core.log.open.values()
        assert (admitted.summed, admitted.request_id) == (expected, "" if expected else "r")
        runner.answer(runner.received()[0])
        core.aggregated.symmetric_difference_update({"acme"})
        core.accounts.refresh()


@given(st.lists(st.sampled_from(["begin", "answer", "fail", "cancel", "lose", "time"]), max_size=40))
def test_whatever_happens_each_admitted_call_ends_once_and_everything_is_settled(steps: list[str]) -> None:
    book = Permits(1_000)
    stage = Stage(runners=2, hedge_after_s=0.05, book=book)
    calls: list[InferenceCall] = []
    for step in steps:
        holders = [runner for runner in stage.runners if not runner.session.closed.is_set() and runner.received()]
        if step == "begin":
            try:
                calls.append(stage.begin(timeout_s=2.0).call)
            except HeadraceError:
                continue
        elif step == "time":
            stage.core.pass_time(0.3)
        elif step == "cancel" and calls:
            stage.core.handler.cancel(calls.pop())
        elif holders and step == "lose":
            holders[0].session.close()
        elif holders and step in ("answer", "fail"):
            holders[0].answer(holders[0].received()[0], failure=OUT_OF_MEMORY if step == "fail" else None)
    stage.core.pass_time(3)
    assert_idle(stage)
    assert not book.held
    used = [amounts for amounts in book.settled if amounts is not None]
    assert len(used) == stage.core.log.admissions
    assert all(amounts.requests == 1 for amounts in used)


async def settled() -> None:
    """Lets the loop run what is due."""
    for _ in range(5):
        await asyncio.sleep(0)
