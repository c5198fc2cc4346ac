"""What is counted of a runner's calls."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.runner.internal.v1 import mesh_pb2
from headrace_gateway.mesh.runner_work import FADE_HALF_LIFE_S, RunnerWork

UIDS = ["a", "b"]


def heartbeat(**in_flight: int) -> mesh_pb2.Heartbeat:
    models = [mesh_pb2.ModelLoad(version_uid=uid, in_flight=count) for uid, count in in_flight.items()]
    return mesh_pb2.Heartbeat(models=models, in_flight=sum(in_flight.values()))


def loaded(*uids: str, slots: int = 1) -> RunnerWork:
    work = RunnerWork(now=0.0)
    for uid in uids:
        work.loaded(uid, slots, 0.0)
    return work


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["began", "began", "ended", "answered", "heartbeat", "unloaded", "loaded"]),
            st.sampled_from(UIDS),
            st.floats(0.0, 0.2),
        ),
        max_size=80,
    )
)
def test_counts_are_exact_and_own_calls_never_pass_for_those_of_others(steps: list[tuple[str, str, float]]) -> None:
    """A runner knows of at most the calls that its gateway has open."""
    work = loaded(*UIDS)
    open_calls: Counter[str] = Counter()
    most: Counter[str] = Counter()
    now = 0.0
    for action, uid, number in steps:
        match action:
            case "began":
                work.began(uid)
                open_calls[uid] += 1
                most[uid] = max(most[uid], open_calls[uid])
            case "ended" if open_calls[uid]:
                work.ended(uid)
                open_calls[uid] -= 1
            case "answered" if open_calls[uid]:
                work.answered(uid, number, number / 2)
                work.ended(uid)
                open_calls[uid] -= 1
            case "heartbeat":
                now += 0.5
                # It was sent at some time since the one before: when it had anything up to all of our calls.
                work.heard(heartbeat(**{name: int(most[name] * number * 5) for name in UIDS}), now)
                most = Counter(open_calls)
                assert [work.version(name).others for name in UIDS] == [0, 0]
            case "unloaded":
                work.unloaded(uid)
            case "loaded":
                work.loaded(uid, 1, now)
            case _:
                continue
        assert work.in_flight == open_calls.total()
        assert {name: work.version(name).in_flight for name in UIDS} == {name: open_calls[name] for name in UIDS}
        pending_s = sum(work.version(name).in_flight * work.version(name).cost_s for name in UIDS)
        assert math.isclose(work.pending_s, pending_s, abs_tol=1e-9)


@given(reported=st.integers(0, 50), own=st.integers(0, 50))
def test_calls_of_other_gateways_are_what_a_runner_has_beyond_ours(reported: int, own: int) -> None:
    work = loaded("a")
    work.answered("a", 0.01, 0.01)
    for _ in range(own):
        work.began("a")
    work.heard(heartbeat(a=reported), 0.5)
    assert work.version("a").others == max(0, reported - own)
    assert work.pending_s == pytest.approx(0.01 * max(reported, own))
    for _ in range(own):
        work.ended("a")
    assert work.pending_s == pytest.approx(0.01 * max(0, reported - own))


def test_runner_that_tells_only_a_total_counts_by_what_its_calls_usually_take() -> None:
    work = loaded("a", "b")
    work.answered("a", 0.01, 0.01)
    work.answered("b", 0.03, 0.03)
    work.heard(mesh_pb2.Heartbeat(in_flight=5), 0.5)
    assert work.pending_s == pytest.approx(5 * 0.02)
    work.heard(mesh_pb2.Heartbeat(), 1.0)
    assert work.pending_s == 0.0


def test_version_that_only_others_call_takes_what_others_take_here() -> None:
    work = loaded("a", "b")
    work.answered("a", 0.01, 0.01)
    work.heard(heartbeat(a=0, b=4), 0.5)
    assert work.pending_s == pytest.approx(4 * 0.01)


def test_cost_is_shared_out_over_the_execution_slots_and_first_taken_from_the_first_answer() -> None:
    work = loaded("a", slots=4)
    assert work.version("a").cost_s == pytest.approx(0.1 / 4)
    work.answered("a", 0.05, 0.02)
    assert (work.version("a").cost_s, work.version("a").latency_s) == pytest.approx((0.005, 0.05))
    work.answered("a", 0.15, 0.04)
    assert (work.version("a").cost_s, work.version("a").latency_s) == pytest.approx((0.0055, 0.06))


def test_what_is_not_measured_any_more_fades_and_the_next_answer_counts_the_more() -> None:
    work = loaded("a")
    work.answered("a", 1.0, 0.5)
    work.heard(heartbeat(), 0.5)
    version = work.version("a")
    assert version.fresh == 1.0, "there was an answer since the heartbeat before"
    work.heard(heartbeat(), 0.5 + FADE_HALF_LIFE_S)
    assert version.fresh == pytest.approx(0.5)
    work.answered("a", 0.2, 0.1)
    assert (version.fresh, version.latency_s) == pytest.approx((1.0, 0.6))


def test_a_runner_that_hangs_does_not_look_faster_with_time() -> None:
    work = loaded("a")
    work.answered("a", 1.0, 0.5)
    work.began("a")
    for beat in range(1, 20):
        work.heard(heartbeat(a=1), 0.5 * beat)
    assert work.version("a").fresh == 1.0


def test_a_version_that_is_loaded_again_is_a_new_one_and_one_that_left_is_forgotten() -> None:
    work = loaded("a", "b")
    work.answered("a", 0.01, 0.01)
    work.began("b")
    work.unloaded("a")
    work.unloaded("b")
    before = work.version("b")
    work.heard(heartbeat(), 5.0)
    assert work.version("b") is before, "it has a call"
    work.loaded("a", 1, 6.0)
    version = work.version("a")
    assert (version.fresh, version.cost_s, version.ready_at) == (0.0, 0.1, 6.0)
    work.loaded("a", 1, 7.0)
    assert version.ready_at == 6.0
    work.restored(8.0)
    assert version.ready_at == 8.0
