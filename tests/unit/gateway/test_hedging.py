"""Second copies of calls whose first replica takes its time."""

from __future__ import annotations

from headrace_common import catalogue
from headrace_common.errors import (
    DeviceUnavailable,
)
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.mesh.session_calls import Answer
from support.failing_runners import Stage, assert_idle, sample

OUT_OF_MEMORY = DeviceUnavailable("full", entry=catalogue.DEVICE_OUT_OF_MEMORY)
NO_BUDGET = ResilienceLimits(retry_ratio=0.0, retry_floor_per_s=0.0)


async def test_an_answer_that_takes_its_time_is_raced_by_a_second_replica() -> None:
    stage = Stage(hedge_after_s=0.05)
    told = stage.begin()
    slow = stage.holder()
    stage.core.pass_time(0.04)
    assert sum(len(runner.received()) for runner in stage.runners) == 1
    stage.core.pass_time(0.1)
    fast = stage.holder(but=slow)
    (copy,) = fast.received()
    assert (copy.attempt, copy.tenant_id, copy.version_uid) == (1, "acme", stage.uid)
    assert 29_850 <= copy.timeout_ms <= 29_950
    fast.answer(copy, b"fast")
    (answer,) = told
    assert isinstance(answer, Answer)
    assert (answer.payload, told.call.session) == (b"fast", fast.session)
    slow.received()
    assert slow.cancelled == [slow.received()[0].id]
    slow.answer(slow.received()[0], b"slow")
    assert len(told) == 1
    assert (sample(stage, "headrace_infer_hedges_total"), sample(stage, "headrace_infer_hedges_won_total")) == (1, 1)
    assert_idle(stage)


async def test_the_first_replica_may_still_win_and_a_lost_one_leaves_the_call_to_its_copy() -> None:
    for loses in (False, True):
        stage = Stage(hedge_after_s=0.05)
        told = stage.begin()
        slow = stage.holder()
        stage.core.pass_time(0.15)
        fast = stage.holder(but=slow)
        if loses:
            slow.session.close()
            assert told == []
            stage.answer_all()
        else:
            slow.answer(slow.received()[0])
            fast.received()
            assert len(fast.cancelled) == 1
        assert told.reason == "OK"
        assert len(fast.received()) <= 1
        assert sample(stage, "headrace_infer_hedges_won_total") == loses


async def test_hedges_are_not_sent_without_budget_nor_for_sequences() -> None:
    stage = Stage(limits=NO_BUDGET, hedge_after_s=0.05)
    stage.core.dispatcher.budget.take()
    stage.begin()
    stage.core.pass_time(0.3)
    assert sum(len(runner.received()) for runner in stage.runners) == 1


async def test_a_cancel_reaches_both_copies() -> None:
    stage = Stage(hedge_after_s=0.05)
    told = stage.begin()
    stage.core.pass_time(0.15)
    assert [len(runner.received()) for runner in stage.runners] == [1, 1]
    stage.core.handler.cancel(told.call)
    for runner in stage.runners:
        runner.received()
        assert len(runner.cancelled) == 1
    assert_idle(stage)


async def test_both_copies_of_a_hedged_call_count_as_attempts() -> None:
    for first_is_lost_first in (True, False):
        stage = Stage(runners=3, hedge_after_s=0.05)
        told = stage.begin()
        slow = stage.holder()
        stage.core.pass_time(0.15)
        fast = stage.holder(but=slow)
        for lost in (slow, fast) if first_is_lost_first else (fast, slow):
            lost.session.close()
        assert told.reason == "RUNNER_LOST", "two runners died of it"


async def test_a_replica_that_has_refused_a_copy_is_not_asked_again_at_once() -> None:
    for first_refuses_first in (True, False):
        stage = Stage(runners=2, hedge_after_s=0.05)
        told = stage.begin()
        slow = stage.holder()
        stage.core.pass_time(0.15)
        fast = stage.holder(but=slow)
        for runner in (slow, fast) if first_refuses_first else (fast, slow):
            runner.answer(runner.received()[0], failure=OUT_OF_MEMORY)
        assert not any(runner.received() for runner in stage.runners)
        assert told == [], "it pauses"
