"""Runners and replicas that answer nothing."""

from __future__ import annotations

import contextlib

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_common.errors import (
    HeadraceError,
)
from support.failing_runners import Stage, pass_with_heartbeats, sample
from support.gateway_core import Runner


def let_all_answer(stage: Stage, *models: str) -> None:
    """Each runner has answered each model once."""
    for model in models:
        while not all(answered(stage, runner, model) for runner in stage.runners):
            for _ in range(40):
                stage.begin(model)
            stage.answer_all()


def answered(stage: Stage, runner: Runner, model: str) -> bool:
    replica = stage.core.dispatcher.health.traffic.models.get(f"acme/{model}/1")
    found = replica.replicas.get(runner.session.token) if replica is not None else None
    return found is not None and found.ok_at > 0


def fall_silent(stage: Stage, silent: Runner, seconds: float, *models: str, silent_models: tuple[str, ...]) -> None:
    """All but those models of that runner are answered."""
    uids = {f"acme/{model}/1" for model in silent_models}
    for _ in range(int(seconds / 0.25)):
        for model in models:
            for _ in range(3):
                with contextlib.suppress(HeadraceError):
                    stage.begin(model)
        for runner in stage.runners:
            for call in runner.received():
                if runner is not silent or call.version_uid not in uids:
                    runner.answer(call)
        pass_with_heartbeats(stage, 0.25)


async def test_a_runner_that_answers_nothing_while_others_do_is_ejected_within_three_seconds_and_gets_time_after() -> (
    None
):
    stage = Stage()
    stage.register("n")
    let_all_answer(stage, "m", "n")
    silent, other = stage.runners
    fall_silent(stage, silent, 3.0, "m", "n", silent_models=("m", "n"))
    assert not silent.session.takes_calls
    assert other.session.takes_calls
    assert sample(stage, "headrace_runner_ejections_total", cause="silence") == 1
    fall_silent(stage, silent, 5.0, "m", "n", silent_models=("m", "n"))
    assert silent.session.takes_calls, "what it has not answered before is not held against it at once"
    fall_silent(stage, silent, 3.0, "m", "n", silent_models=("m", "n"))
    assert not silent.session.takes_calls


async def test_one_version_that_is_silent_loses_its_replica_and_not_the_runner() -> None:
    stage = Stage()
    stage.register("n")
    let_all_answer(stage, "m", "n")
    silent = stage.runners[0]
    for others in (("m", "n"), ("m",)):
        fall_silent(stage, silent, 3.0, *others, silent_models=("m",))
        assert silent.session.takes_calls
        state = stage.core.dispatcher.breaker_state(silent.session, stage.uid)
        assert state == gateway_pb2.BREAKER_STATE_OPEN


async def test_a_replica_that_has_never_answered_is_given_time() -> None:
    stage = Stage()
    for _ in range(40):
        stage.begin()
    silent = stage.runners[0] if stage.runners[0].received() else stage.runners[1]
    fall_silent(stage, silent, 4.0, "m", silent_models=("m",))
    assert silent.session.takes_calls
    state = stage.core.dispatcher.breaker_state(silent.session, stage.uid)
    assert state == gateway_pb2.BREAKER_STATE_CLOSED
