"""Who gets slots of a language model behind a model host, for how long, and when they are free again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.registry.v1.manifest_pb2 import (
    QueuePolicy,
)
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.testing import FakeClock
from support.eventually import eventually
from support.scripted_language import text_after
from support.story import CONTEXT, ENDLESS, SLOTS, manifest, story


async def test_slots_are_never_exceeded_and_everybody_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with story(tmp_path, monkeypatch) as loaded:
        sampling = pb.SamplingParameters(max_tokens=5)
        heard = [
            loaded.generate(request=pb.GenerateRequest(text=f"t{n}", sampling=sampling, completions=1 + n % SLOTS))
            for n in range(40)
        ]
        assert loaded.runner.host.load().queue_depth == 40
        await loaded.over(*heard)
        assert all(len(one.text(n % SLOTS)) == 5 for n, one in enumerate(heard))
        assert loaded.model.peak == SLOTS
        await loaded.all_free()


async def test_a_cancelled_call_stops_the_model_and_keeps_its_slot_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with story(tmp_path, monkeypatch) as loaded:
        loaded.model.may_stop.clear()
        loaded.model.stand_after(3)
        running = [loaded.generate(request=ENDLESS) for _ in range(SLOTS)]
        waiting = loaded.generate()
        await eventually(lambda: loaded.model.running == SLOTS and loaded.metric("generation_queue_tokens") == 12)
        running[0].cancel()
        running[0].cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert loaded.model.running == SLOTS
        loaded.model.may_stop.set()
        await eventually(lambda: len(loaded.model.begun) == 1 + SLOTS + 1)
        loaded.model.may_go.set()
        await loaded.over(waiting, *running[1:])
        assert running[0].outcome is None, "nobody waits for it"
        assert waiting.text() == text_after("once", 8)
        await loaded.all_free()
        assert loaded.metric("calls_total", outcome="cancelled") == 1


@pytest.mark.parametrize("turns", range(12))
async def test_a_call_may_be_cancelled_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    async with story(tmp_path, monkeypatch) as loaded:
        heard = [loaded.generate() for _ in range(2 * SLOTS)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for one in heard:
            one.cancel()
        await loaded.all_free()
        assert loaded.metric("calls_total", outcome="cancelled") == sum(not one.over for one in heard)
        again = loaded.generate()
        await loaded.over(again)
        assert again.text() == text_after("once", 8)


async def test_calls_end_at_their_deadline_with_what_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    async with story(tmp_path, monkeypatch, clock=clock) as loaded:
        loaded.model.stand_after(3)
        running = [loaded.generate(timeout_s=5) for _ in range(SLOTS)]
        await eventually(lambda: all(len(one.tokens) == 3 for one in running))
        waiting = loaded.generate(timeout_s=2)
        await eventually(lambda: loaded.runner.host.load().queue_depth == 1)
        clock.advance(3)
        await loaded.over(waiting)
        assert waiting.error.entry is catalogue.INFERENCE_TIMEOUT
        assert "waiting" in waiting.error.message
        assert not running[0].over
        clock.advance(3)
        await loaded.over(*running)
        assert {one.error.entry for one in running} == {catalogue.INFERENCE_TIMEOUT}
        assert bytes(running[0].tokens).decode() == text_after("once", 3)
        await loaded.all_free()
        assert loaded.metric("calls_total", outcome="expired") == SLOTS + 1


async def test_the_models_policy_bounds_the_queue_and_the_time_in_it_and_in_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    described = manifest(queue=QueuePolicy(calls_max=2))
    described.execution.queue.timeout.FromSeconds(4)
    described.execution.timeout.FromSeconds(6)
    async with story(tmp_path, monkeypatch, clock=clock, described=described) as loaded:
        loaded.model.may_go.clear()
        heard = [loaded.generate() for _ in range(SLOTS + 2)]
        with pytest.raises(HeadraceError) as caught:
            loaded.generate()
        assert caught.value.entry is catalogue.RUNNER_OVERLOADED
        assert caught.value.retry_after_s
        loaded.model.may_go.set()
        await loaded.over(*heard)

        loaded.model.stand_after(3)
        running = [loaded.generate() for _ in range(SLOTS)]
        await eventually(lambda: loaded.model.running == SLOTS)
        waiting = loaded.generate()
        clock.advance(5)
        await loaded.over(waiting)
        assert waiting.error.entry is catalogue.QUEUE_TIMEOUT
        assert not any(one.over for one in running)
        clock.advance(2)
        await loaded.over(*running)
        assert {one.error.entry for one in running} == {catalogue.EXECUTION_TIMEOUT}
        await loaded.all_free()
        assert loaded.metric("calls_total", outcome="refused") == 2


@pytest.mark.parametrize("completions", [1, SLOTS])
async def test_a_slot_is_not_given_away_while_the_model_stops_whatever_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, completions: int
) -> None:
    async with story(tmp_path, monkeypatch) as loaded:
        loaded.model.stand_after(3)
        failing = loaded.generate(
            request=pb.GenerateRequest(text="x", completions=completions, sampling=pb.SamplingParameters(max_tokens=9))
        )
        others = [loaded.generate(request=ENDLESS) for _ in range(SLOTS - completions)]
        await eventually(lambda: loaded.model.running == SLOTS)
        waiting = loaded.generate()
        await eventually(lambda: loaded.metric("generation_queue_tokens") == 12)
        loaded.model.may_stop.clear()
        loaded.model.lose()
        for _ in range(20):
            await asyncio.sleep(0)
        failing.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert loaded.metric("generation_slots_used") == SLOTS == loaded.model.running
        loaded.model.may_stop.set()
        loaded.model.may_go.set()
        await loaded.over(waiting, *others)
        assert waiting.text() == text_after("once", 8)
        assert failing.outcome is None
        await loaded.all_free()


async def test_long_prompts_are_computed_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with story(tmp_path, monkeypatch) as loaded:
        peaks: list[int] = []
        sampling = pb.SamplingParameters(max_tokens=1)
        for prompt in ("y" * (CONTEXT - 4), "z" * (CONTEXT // SLOTS)):
            loaded.model.peak = 0
            texts = [f"{number}{prompt[1:]}" for number in range(SLOTS)]
            heard = [loaded.generate(request=pb.GenerateRequest(text=text, sampling=sampling)) for text in texts]
            await loaded.over(*heard)
            peaks.append(loaded.model.peak)
        # The next begins with its prompt when the one before begins with its text.
        assert peaks == [2, SLOTS]
        loaded.model.stand_after(1)
        heard = [loaded.generate(request=pb.GenerateRequest(text=f"{number}" * 40)) for number in range(SLOTS)]
        await eventually(lambda: all(one.tokens for one in heard))
        assert (loaded.model.running, loaded.metric("generation_prompt_tokens")) == (SLOTS, 0)
        loaded.model.may_go.set()
        await loaded.over(*heard)
        await loaded.all_free()


async def test_a_runner_that_leaves_lets_calls_go_on_for_the_grace_and_then_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with story(tmp_path, monkeypatch) as loaded:
        done = loaded.generate()
        assert await loaded.runner.host.close(grace_s=30)
        assert done.text() == text_after("once", 8)
    async with story(tmp_path / "b", monkeypatch) as loaded:
        loaded.model.may_go.clear()
        stuck = loaded.generate()
        assert await loaded.runner.host.close(grace_s=0.05)
        assert stuck.error.entry is catalogue.RUNNER_DRAINING
        assert loaded.model.closed
