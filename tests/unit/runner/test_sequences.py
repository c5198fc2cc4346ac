"""The state of sequences: in order, one request at a time, only ever advanced by what was answered, and bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_runner.execution.sequence_counts import SequenceCounts
from headrace_runner.execution.sequence_policy import SequencePolicy, StateTensor, sequence_policy_of
from headrace_runner.execution.sequences import LOOK_S, Sequences, SequenceStep
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.sequence_parameters import SequenceUse, read_sequence
from headrace_runner.tensors.signature import Signature, TensorSpec

IDLE_S = 60.0
STATE = StateTensor(input="state", output="next", datatype="INT64", initial=np.zeros(1, np.int64))


def number(value: int) -> Array:
    return np.array([value], np.int64)


class Replica:
    """Sequences of a model that adds its input to ten times the state, and a clock."""

    def __init__(self, *, live_max: int = 8, bytes_max: int = 1 << 20, state: StateTensor = STATE) -> None:
        self.counts = SequenceCounts()
        self.now = 1000.0
        policy = SequencePolicy(model="m:1", states=(state,), idle_s=IDLE_S, live_max=live_max, bytes_max=bytes_max)
        self.sequences: Sequences[str] = Sequences(policy=policy, counts=self.counts)

    def enter(self, item: str, use: SequenceUse, sent: tuple[str, ...] = ()) -> SequenceStep | None:
        return self.sequences.enter(item, use, sent, self.now)

    def answer(self, item: str, use: SequenceUse, step: SequenceStep, added: int) -> int:
        """Computes, commits, leaves; gives the new state."""
        value = int(step.inputs["state"][0]) * 10 + added
        step.computed({"next": number(value)})
        self.sequences.commit(item, use)
        assert self.sequences.leave(item, use, self.now) == []
        return value

    def infer(self, use: SequenceUse, added: int) -> int:
        step = self.enter("alone", use)
        assert step is not None
        return self.answer("alone", use, step, added)

    def passes(self, seconds: float) -> None:
        """Time in which the process is alive."""
        for _ in range(int(seconds / LOOK_S)):
            self.now += LOOK_S
            self.sequences.look(self.now)


def refused(replica: Replica, use: SequenceUse) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        replica.enter("refused", use)
    return caught.value


START, GO_ON, END = SequenceUse(7, start=True), SequenceUse(7), SequenceUse(7, end=True)


def test_state_is_carried_from_the_start_to_the_end() -> None:
    replica = Replica()
    assert [replica.infer(use, added) for added, use in enumerate((START, GO_ON, END), 1)] == [1, 12, 123]
    assert refused(replica, GO_ON).entry == catalogue.SEQUENCE_NOT_FOUND
    assert replica.counts == SequenceCounts(started=1, ended=1)


def test_one_request_may_be_a_whole_sequence() -> None:
    replica = Replica()
    assert replica.infer(SequenceUse("s", start=True, end=True), 5) == 5
    assert (replica.counts.live, replica.counts.started, replica.counts.ended) == (0, 1, 1)


def test_a_start_begins_a_living_sequence_anew() -> None:
    replica = Replica()
    replica.infer(START, 1)
    assert replica.infer(START, 2) == 2
    assert (replica.counts.live, replica.counts.started) == (1, 2)


def test_a_number_and_its_text_are_two_sequences() -> None:
    replica = Replica()
    replica.infer(SequenceUse(7, start=True), 1)
    assert refused(replica, SequenceUse("7")).entry == catalogue.SEQUENCE_NOT_FOUND


def test_a_failed_request_leaves_the_state_as_it_was() -> None:
    replica = Replica()
    replica.infer(START, 1)
    for use in (GO_ON, START, END):
        step = replica.enter("failing", use)
        assert step is not None
        assert replica.sequences.leave("failing", use, replica.now) == []
    assert replica.infer(GO_ON, 2) == 12


def test_a_start_that_failed_began_nothing() -> None:
    replica = Replica()
    replica.enter("first", START)
    assert replica.enter("second", GO_ON) is None
    ((item, failure),) = replica.sequences.leave("first", START, replica.now)
    assert (item, getattr(failure, "entry", None)) == ("second", catalogue.SEQUENCE_NOT_FOUND)
    assert not replica.sequences.any


def test_requests_have_their_turn_one_after_another() -> None:
    replica = Replica()
    first = replica.enter("first", START)
    assert first is not None
    assert replica.enter("second", GO_ON) is None
    assert replica.enter("third", GO_ON) is None
    assert replica.sequences.leave("second", GO_ON, replica.now) == []
    first.computed({"next": number(4)})
    replica.sequences.commit("first", START)
    ((item, step),) = replica.sequences.leave("first", START, replica.now)
    assert item == "third"
    assert isinstance(step, SequenceStep)
    assert replica.answer("third", GO_ON, step, 2) == 42


def test_a_state_that_the_request_brings_is_taken() -> None:
    replica = Replica()
    step = replica.enter("own", START, ("state", "x"))
    assert step is not None
    assert step.inputs == {}
    assert step.outputs == ("next",)


def test_a_line_is_bounded() -> None:
    replica = Replica()
    replica.enter("first", START)
    for index in range(63):
        replica.enter(str(index), GO_ON)
    assert refused(replica, GO_ON).entry == catalogue.RUNNER_OVERLOADED


def test_sequences_are_bounded_and_the_bound_is_named() -> None:
    replica = Replica(live_max=2)
    replica.infer(SequenceUse(1, start=True), 1)
    replica.enter("waits", SequenceUse(2, start=True))
    error = refused(replica, SequenceUse(3, start=True))
    assert (error.entry, error.context["limit"]) == (catalogue.SEQUENCE_LIMIT_REACHED, 2)
    assert replica.infer(SequenceUse(1, start=True), 1) == 1
    assert replica.counts.refused == 1


def test_memory_of_state_is_bounded_and_the_former_state_stays() -> None:
    replica = Replica(bytes_max=16)
    replica.infer(START, 1)
    step = replica.enter("large", GO_ON)
    assert step is not None
    step.computed({"next": np.zeros(3, np.int64)})
    with pytest.raises(HeadraceError) as caught:
        replica.sequences.commit("large", GO_ON)
    assert (caught.value.entry, caught.value.context["limit"]) == (catalogue.SEQUENCE_LIMIT_REACHED, 16)
    replica.sequences.leave("large", GO_ON, replica.now)
    assert replica.infer(GO_ON, 2) == 12
    assert replica.counts.state_bytes == 8


def test_an_idle_sequence_expires_and_a_used_one_does_not() -> None:
    replica = Replica()
    replica.infer(START, 1)
    replica.passes(IDLE_S - 1)
    replica.infer(GO_ON, 2)
    replica.passes(IDLE_S - 1)
    assert replica.counts.live == 1
    replica.passes(2)
    assert (replica.counts.live, replica.counts.expired, replica.counts.state_bytes) == (0, 1, 0)
    assert refused(replica, GO_ON).entry == catalogue.SEQUENCE_NOT_FOUND


def test_a_sequence_whose_request_computes_does_not_expire() -> None:
    replica = Replica()
    replica.infer(START, 1)
    step = replica.enter("slow", GO_ON)
    replica.passes(2 * IDLE_S)
    assert step is not None
    assert replica.answer("slow", GO_ON, step, 2) == 12


def test_after_a_standstill_nothing_is_remembered() -> None:
    """It may have been ejected, and its sequences started on another runner."""
    replica = Replica()
    replica.infer(START, 1)
    computing = SequenceUse("other", start=True)
    step = replica.enter("computing", computing)
    replica.now += 3.0
    assert refused(replica, GO_ON).entry == catalogue.SEQUENCE_NOT_FOUND
    assert step is not None
    step.computed({"next": number(1)})
    with pytest.raises(HeadraceError) as caught:
        replica.sequences.commit("computing", computing)
    assert caught.value.entry == catalogue.SEQUENCE_NOT_FOUND
    replica.sequences.leave("computing", computing, replica.now)
    assert (replica.counts.lost, replica.counts.live, replica.sequences.any) == (1, 0, False)


def test_text_state_is_kept_as_bytes() -> None:
    words = StateTensor(input="state", output="next", datatype="BYTES", initial=np.full(1, b"", object))
    replica = Replica(state=words)
    step = replica.enter("first", START)
    assert step is not None
    step.computed({"next": np.array(["grüß"], object)})
    replica.sequences.commit("first", START)
    replica.sequences.leave("first", START, replica.now)
    following = replica.enter("second", GO_ON)
    assert following is not None
    assert following.inputs["state"].tolist() == ["grüß".encode()]
    assert replica.counts.state_bytes == 8 + 6


def test_kept_state_keeps_no_other_memory_alive() -> None:
    replica = Replica()
    step = replica.enter("first", START)
    assert step is not None
    step.computed({"next": np.zeros(1 << 16, np.int64)[:1]})
    replica.sequences.commit("first", START)
    replica.sequences.leave("first", START, replica.now)
    following = replica.enter("second", GO_ON)
    assert following is not None
    assert following.inputs["state"].base is None


@pytest.mark.parametrize(
    ("parameters", "use"),
    [
        ({}, None),
        ({"sequence_id": 0, "sequence_start": True}, None),
        ({"sequence_id": ""}, None),
        ({"sequence_id": 7, "sequence_start": True, "sequence_end": False}, SequenceUse(7, start=True)),
        ({"sequence_id": "7", "sequence_end": True}, SequenceUse("7", end=True)),
        ({"sequence_id": -1}, SequenceUse(2**64 - 1)),
    ],
)
def test_parameters_name_a_sequence(parameters: dict[str, bool | int | str], use: SequenceUse | None) -> None:
    assert read_sequence(parameters) == use


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"sequence_id": 1.5}, "sequence_id"),
        ({"sequence_id": True}, "sequence_id"),
        ({"sequence_id": "ü" * 65}, "sequence_id"),
        ({"sequence_id": 1, "sequence_start": 1}, "sequence_start"),
        ({"sequence_end": "yes"}, "sequence_end"),
    ],
)
def test_parameters_that_name_none_are_refused(parameters: dict[str, bool | int | float | str], field: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        read_sequence(parameters)
    assert (caught.value.entry, caught.value.field) == (catalogue.PARAMETER_INVALID, f"parameters.{field}")


def test_the_policy_is_the_manifest_s_over_defaults() -> None:
    signature = Signature(
        inputs=[TensorSpec("s", "FP32", (2, -1)), TensorSpec("w", "BYTES", (1,))],
        outputs=[TensorSpec("n", "FP32", (2, -1)), TensorSpec("v", "BYTES", (1,))],
        states={},
    )
    manifest = Manifest()
    assert sequence_policy_of(manifest, signature, model="m:1", bytes_max=1) is None
    manifest.sequence.states.add(input="s", output="n")
    manifest.sequence.states.add(input="w", output="v", initial=b"\x02\0\0\0hi")
    policy = sequence_policy_of(manifest, signature, model="m:1", bytes_max=1)
    assert policy is not None
    assert (policy.idle_s, policy.live_max) == (60.0, 1024)
    numbers, words = policy.states
    np.testing.assert_array_equal(numbers.initial, np.zeros((2, 1), np.float32))
    assert words.initial.tolist() == [b"hi"]
    manifest.sequence.idle_timeout.seconds = 5
    manifest.sequence.sequences_max = 9
    manifest.sequence.states[0].shape[:] = [2, 3]
    policy = sequence_policy_of(manifest, signature, model="m:1", bytes_max=1)
    assert policy is not None
    assert (policy.idle_s, policy.live_max, policy.states[0].initial.shape) == (5.0, 9, (2, 3))


class InAnyOrder(RuleBasedStateMachine):
    """Requests of a few sequences come, are answered, fail or leave in any order; a plain history is the truth."""

    @initialize()
    def begin(self) -> None:
        self.replica = Replica(live_max=3)
        self.history: dict[int, int] = {}
        self.lines: dict[int, list[tuple[str, SequenceUse]]] = {}
        self.turns: dict[str, SequenceStep] = {}
        self.made = 0

    @rule(name=st.integers(1, 4), start=st.booleans(), end=st.booleans())
    def comes(self, name: int, start: bool, end: bool) -> None:
        self.made += 1
        item, use = f"r{self.made}", SequenceUse(name, start, end)
        known = name in self.history or bool(self.lines.get(name))
        others = self.history.keys() | {key for key, line in self.lines.items() if line}
        try:
            step = self.replica.enter(item, use)
        except HeadraceError as error:
            expected = catalogue.SEQUENCE_LIMIT_REACHED if start else catalogue.SEQUENCE_NOT_FOUND
            assert error.entry is expected
            assert not known
            assert len(others) == 3 or not start
            return
        assert known or start
        line = self.lines.setdefault(name, [])
        assert (step is None) == bool(line)
        line.append((item, use))
        if step is not None:
            self._has_turn(name, item, use, step)

    @precondition(lambda self: any(self.lines.values()))
    @rule(data=st.data(), ends=st.sampled_from(["answered", "failed"]))
    def the_first_ends(self, data: st.DataObject, ends: str) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, line in self.lines.items() if line)))
        item, use = self.lines[name].pop(0)
        step = self.turns.pop(item)
        if ends == "answered":
            value = int(step.inputs["state"][0]) + self.made
            step.computed({"next": number(value)})
            self.replica.sequences.commit(item, use)
            if use.end:
                self.history.pop(name, None)
            else:
                self.history[name] = value
        self._goes_on(name, item, use)

    @precondition(lambda self: any(len(line) > 1 for line in self.lines.values()))
    @rule(data=st.data())
    def one_that_waits_leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, line in self.lines.items() if len(line) > 1)))
        item, use = self.lines[name].pop(data.draw(st.integers(1, len(self.lines[name]) - 1)))
        assert self.replica.sequences.leave(item, use, self.replica.now) == []

    def _goes_on(self, name: int, item: str, use: SequenceUse) -> None:
        for turn in self.replica.sequences.leave(item, use, self.replica.now):
            waiting, its = self.lines[name][0]
            assert turn.item == waiting
            if isinstance(turn.step, SequenceStep):
                self._has_turn(name, waiting, its, turn.step)
            else:
                assert not its.start
                assert name not in self.history
                self.lines[name].pop(0)
        assert not self.lines[name] or self.lines[name][0][0] in self.turns

    def _has_turn(self, name: int, item: str, use: SequenceUse, step: SequenceStep) -> None:
        self.turns[item] = step
        assert int(step.inputs["state"][0]) == (0 if use.start else self.history[name])

    @invariant()
    def counts_are_right(self) -> None:
        if hasattr(self, "history"):
            assert self.replica.counts.live == len(self.history)
            assert self.replica.counts.state_bytes == 8 * len(self.history)
            assert len(self.turns) == sum(bool(line) for line in self.lines.values())


InAnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestInAnyOrder = InAnyOrder.TestCase
