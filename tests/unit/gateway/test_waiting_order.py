"""The order of waiting calls: priorities, turns of tenants, shares of runners."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from headrace_gateway.inference.resilience.priority_line import PriorityLine
from headrace_gateway.inference.resilience.tenant_shares import TenantShares
from headrace_gateway.inference.resilience.turns import Turns

PRIORITIES = st.integers(0, 9)


@given(st.lists(st.tuples(st.sampled_from(("push", "first", "last", "any")), PRIORITIES), max_size=80))
def test_first_is_the_most_urgent_that_came_first_and_given_up_is_the_least_urgent_that_came_last(
    steps: list[tuple[str, int]],
) -> None:
    line: PriorityLine[int] = PriorityLine()
    model: list[tuple[int, int]] = []
    for number, (step, priority) in enumerate(steps):
        best = min(model, key=lambda entry: (-entry[1], entry[0]), default=None)
        worst = min(model, key=lambda entry: (entry[1], -entry[0]), default=None)
        assert line.first() == (best[0] if best else None)
        victim = line.least_urgent(below=priority)
        assert victim == (worst[0] if worst and worst[1] < priority else None)
        assert line.count(priority) == sum(other == priority for _, other in model)
        assert list(line) == [item for item, _ in sorted(model, key=lambda entry: (-entry[1], entry[0]))]
        assert (len(line), bool(line)) == (len(model), bool(model))
        if step == "push":
            line.push(number, priority)
            model.append((number, priority))
        elif best is not None and worst is not None:
            entry = {"first": best, "last": worst, "any": model[priority % len(model)]}[step]
            line.remove(*entry)
            model.remove(entry)


def test_an_item_gains_a_priority_for_each_second_and_one_that_comes_back_is_the_first_of_its_equals() -> None:
    line: PriorityLine[str] = PriorityLine()
    line.push("low", 2, 100.0)
    line.push("high", 5, 102.9)
    assert line.first() == "high"
    line.push("higher", 6, 104.2)
    line.remove("high", 5)
    line.push("high", 5, 103.1)
    assert line.first() == "low", "the head of each priority is compared"
    line.remove("low", 2)
    line.push("back", 5, 100.5, front=True)
    assert (line.first(), list(line)) == ("back", ["higher", "back", "high"])


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6), min_size=1))
def test_tenants_have_equally_many_turns_however_many_models_they_have(models: dict[str, int]) -> None:
    turns: Turns[str] = Turns()
    for tenant, count in models.items():
        for number in range(count):
            turns.join(f"{tenant}{number}", tenant)
            turns.join(f"{tenant}{number}", tenant)
    rounds = 12
    seen: list[str] = []
    for step in range(rounds * len(models)):
        line, *others = turns.first(len(models))
        assert {line[0], *(other[0] for other in others)} == set(models), "one line of each tenant"
        if step % 3 == 2 and others:
            turns.passed(others[0], others[0][0])
        turns.served(line, line[0])
        seen.append(line)
    assert Counter(line[0] for line in seen) == dict.fromkeys(models, rounds), "a turn that was no use is kept"
    for tenant, count in models.items():
        for number in range(count):
            turns.leave(f"{tenant}{number}", tenant)
    assert (turns.first(9), len(turns)) == ([], 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 0.4)), min_size=1, max_size=60), st.integers(1, 100))
def test_shares_of_the_active_never_exceed_the_runner(steps: list[tuple[str, float]], calls_max: int) -> None:
    shares, now, seen = TenantShares(calls_max=calls_max), 0.0, dict[str, float]()
    for tenant, seconds in steps:
        now += seconds
        shares.seen(tenant, now)
        seen[tenant] = now
        for idle in shares.rest(now):
            assert now - seen.pop(idle) > 1.0
        assert len(shares) == len(seen)
        assert shares.share == max(1, calls_max // len(seen))
        assert all(name in shares for name in seen)


def test_a_tenant_that_is_alone_has_all_of_a_runner_and_a_fifth_is_kept_for_others_when_it_is_not() -> None:
    shares = TenantShares(calls_max=100)
    shares.seen("a", 0.0)
    assert (shares.share, shares.open_to_all) == (100, 80)
    shares.seen("b", 0.5)
    assert shares.share == 50
    assert shares.rest(1.2) == ["a"]
    assert shares.share == 100
