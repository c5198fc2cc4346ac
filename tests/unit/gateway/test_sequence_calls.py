"""Calls of a sequence on their way through a gateway: in order, to one replica, and never computed twice."""

from __future__ import annotations

import asyncio

import pytest

from headrace.registry.v1.manifest_pb2 import Manifest, SequencePolicy, SequenceState
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelUnavailable, RouteError, RouteUnavailable, RunnerUnavailable
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.mesh.session_calls import Answer
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner

STATEFUL = Manifest(
    backend="onnxruntime", sequence=SequencePolicy(states=[SequenceState(input="state", output="next")])
)
UNKNOWN = RouteError("unknown here", entry=catalogue.SEQUENCE_NOT_FOUND)
CALLER = Caller("acme", "request", "", 60.0)


class Mesh:
    """A gateway and runners that have a model which keeps state."""

    def __init__(self, runners: int, manifest: Manifest = STATEFUL) -> None:
        self.core = GatewayCore()
        self.uid = self.core.register("talk", manifest=manifest)
        self.runners = [self.core.join(f"runner-{index}") for index in range(runners)]
        for runner in self.runners:
            runner.loaded(self.uid)

    def begin(self, sequence: int, note: str = "", *, start: bool = False) -> tuple[InferenceCall, list[Outcome]]:
        """A call as it comes from a client, and what becomes of it."""
        request = oip.ModelInferRequest(model_name="talk", id=note)
        request.parameters["sequence_id"].int64_param = sequence
        request.parameters["sequence_start"].bool_param = start
        told: list[Outcome] = []
        call = self.core.handler.begin(
            request.SerializeToString(), CALLER, lambda _call, outcome: told.append(outcome), windowed=True
        )
        return call, told

    def holders(self) -> list[Runner]:
        """Runners that have calls."""
        return [runner for runner in self.runners if runner.received()]

    def holder(self) -> Runner:
        """The one runner that has calls."""
        (runner,) = self.holders()
        return runner

    def notes(self, runner: Runner) -> list[str]:
        """Which calls it has."""
        return [oip.ModelInferRequest.FromString(call.payload).id for call in runner.received()]

    async def start(self, sequence: int) -> Runner:
        """Starts a sequence; gives the runner that has it."""
        _, told = self.begin(sequence, start=True)
        runner = self.holder()
        runner.answer(runner.received()[0], b"started")
        assert [outcome.payload for outcome in told if isinstance(outcome, Answer)] == [b"started"]
        return runner


async def turn() -> None:
    """Lets what is due on the event loop happen."""
    await asyncio.sleep(0)


def reason(told: list[Outcome]) -> str:
    (outcome,) = told
    assert isinstance(outcome, HeadraceError)
    return outcome.reason


async def test_calls_of_a_sequence_are_sent_one_after_another_to_one_runner() -> None:
    mesh = Mesh(4)
    for index in range(5):
        mesh.begin(7, str(index), start=index == 0)
    owner = mesh.holder()
    for index in range(5):
        assert mesh.holder() is owner
        assert mesh.notes(owner) == [str(index)]
        owner.answer(owner.received()[0])
        await turn()
    assert mesh.holders() == []


async def test_what_ends_before_its_turn_leaves_the_others_in_order() -> None:
    mesh = Mesh(1)
    (runner,) = mesh.runners
    calls = [mesh.begin(7, str(index), start=index == 0)[0] for index in range(4)]
    mesh.core.handler.cancel(calls[2])
    mesh.core.handler.cancel(calls[0])
    await turn()
    assert mesh.notes(runner) == ["1"]
    mesh.core.handler.cancel(calls[1])
    await turn()
    assert mesh.notes(runner)[-1] == "3"
    assert len(runner.cancelled) == 1


async def test_a_failed_call_does_not_hold_up_the_next() -> None:
    mesh = Mesh(1)
    (runner,) = mesh.runners
    _, first = mesh.begin(7, "0", start=True)
    _, second = mesh.begin(7, "1")
    runner.answer(runner.received()[0], failure=RunnerUnavailable("full", entry=catalogue.RUNNER_OVERLOADED))
    await turn()
    runner.answer(runner.received()[0], failure=UNKNOWN)
    assert (reason(first), reason(second)) == ("RUNNER_OVERLOADED", "SEQUENCE_NOT_FOUND")


async def test_many_that_fail_at_once_do_so_one_after_another() -> None:
    """Each is told in a turn of its own; a chain of calls would be too deep."""
    mesh = Mesh(1)
    (runner,) = mesh.runners
    outcomes = [mesh.begin(7, start=index == 0)[1] for index in range(3_000)]
    runner.session.close()
    mesh.core.directory.remove(runner.session)
    for _ in range(20_000):
        await turn()
    assert reason(outcomes[0]) == "RUNNER_LOST"
    mesh.core.clock.advance(61)
    mesh.core.handler.end_overdue()
    assert all(outcomes)


async def test_a_lost_runner_loses_the_call_too() -> None:
    """It may have been computed, and the state may have moved on."""
    mesh = Mesh(3)
    owner = await mesh.start(7)
    _, told = mesh.begin(7)
    assert mesh.holder() is owner
    owner.session.close()
    mesh.core.directory.remove(owner.session)
    assert reason(told) == "RUNNER_LOST"
    assert all(runner is owner for runner in mesh.holders())


async def test_every_replica_is_asked_for_an_unknown_sequence_and_none_is_waited_for() -> None:
    mesh = Mesh(3)
    _, told = mesh.begin(7)
    asked: list[Runner] = []
    while holders := mesh.holders():
        (runner,) = holders
        asked.append(runner)
        runner.answer(runner.received()[0], failure=UNKNOWN)
    assert sorted(map(id, asked)) == sorted(map(id, mesh.runners))
    assert reason(told) == "SEQUENCE_NOT_FOUND"


async def test_no_more_replicas_are_asked_than_a_bound() -> None:
    mesh = Mesh(20)
    _, told = mesh.begin(7)
    asked = 0
    while holders := mesh.holders():
        holders[0].answer(holders[0].received()[0], failure=UNKNOWN)
        asked += 1
    assert (asked, reason(told)) == (8, "SEQUENCE_NOT_FOUND")


@pytest.mark.parametrize(
    "refusal",
    [
        RouteUnavailable("full of sequences", entry=catalogue.SEQUENCE_LIMIT_REACHED),
        RunnerUnavailable("full", entry=catalogue.RUNNER_OVERLOADED),
        ModelUnavailable("unloaded", entry=catalogue.MODEL_LOADING),
    ],
    ids=lambda refusal: refusal.reason,
)
async def test_a_sequence_begins_where_there_is_room(refusal: HeadraceError) -> None:
    mesh = Mesh(2)
    _, told = mesh.begin(7, start=True)
    first = mesh.holder()
    first.answer(first.received()[0], failure=refusal)
    other = mesh.holder()
    assert other is not first
    other.answer(other.received()[0], b"started")
    assert [outcome.payload for outcome in told if isinstance(outcome, Answer)] == [b"started"]
    mesh.begin(7)
    assert mesh.holder() is other, "it is remembered"


async def test_a_sequence_goes_on_where_it_is_while_others_have_room() -> None:
    mesh = Mesh(2)
    owner = await mesh.start(7)
    _, told = mesh.begin(7)
    owner.answer(
        owner.received()[0], failure=RunnerUnavailable("full", entry=catalogue.RUNNER_OVERLOADED, retry_after_s=0.1)
    )
    assert reason(told) == "RUNNER_OVERLOADED"
    assert mesh.holders() == []


async def test_a_sequence_means_nothing_to_a_model_without_state() -> None:
    mesh = Mesh(1, Manifest(backend="onnxruntime"))
    (runner,) = mesh.runners
    for index in range(3):
        mesh.begin(7, str(index))
    assert mesh.notes(runner) == ["0", "1", "2"]
