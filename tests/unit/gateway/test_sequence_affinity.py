"""Every gateway finds the replica of a sequence, also after others have come or gone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from headrace.registry.v1.models_pb2 import Version
from headrace_common.testing import FakeClock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.sequence_affinity import SequenceAffinity
from headrace_gateway.inference.sequence_order import SequenceOrder

VERSION = CatalogVersion(tenant_id="t", uid="u", model="m", version=1, version_text="1", proto=Version())
ATTEMPTS_MAX = 3


@dataclass
class Call:
    sequence: str
    sequence_start: bool = False
    refused_by: frozenset[str] = frozenset()
    version: CatalogVersion = VERSION


@dataclass
class Runner:
    """A runner as one gateway knows it, and the sequences whose state it has."""

    id: str
    token: str
    sequences: set[str] = field(default_factory=set[str])
    usable: bool = True
    device_rank: int = 0


class Gateway:
    """Sends calls of sequences as the dispatcher does: where one is not known, to the next."""

    def __init__(self, remembered_max: int = 100) -> None:
        self.clock = FakeClock()
        self.affinity = SequenceAffinity(clock=self.clock, remembered_max=remembered_max)
        self.attempts = 0

    def pick(self, runners: list[Runner], call: Call) -> Runner | None:
        return self.affinity.pick(call, runners, lambda runner: runner.usable, lambda runner: runner.device_rank)

    def infer(self, runners: list[Runner], name: str, *, start: bool = False) -> Runner | None:
        """Who has computed it; None when nobody knows the sequence."""
        call = Call(name, start)
        for _ in range(ATTEMPTS_MAX):
            runner = self.pick(runners, call)
            if runner is None:
                return None
            self.attempts += 1
            if start or name in runner.sequences:
                runner.sequences.add(name)
                return runner
            call.refused_by |= {runner.token}
        return None


def fleet(count: int, first: int = 0) -> list[Runner]:
    return [Runner(f"runner-{index}.boot", f"token-{index}") for index in range(first, first + count)]


names = st.text(min_size=1, max_size=8)


@given(names, st.integers(1, 12), st.randoms(use_true_random=False))
def test_gateways_agree_whatever_the_order_of_their_runners(name: str, count: int, random: Random) -> None:
    runners = fleet(count)
    shuffled = runners.copy()
    random.shuffle(shuffled)
    first, other = Gateway(), Gateway()
    assert first.infer(runners, name, start=True) is other.infer(shuffled, name)
    assert other.attempts == 1


@given(names, st.integers(1, 6), st.integers(1, 2), st.booleans())
def test_a_sequence_is_found_after_newcomers(name: str, count: int, newcomers: int, remembers: bool) -> None:
    """The gateway that started it asks nobody else; another one at most as many more as have come."""
    runners = fleet(count)
    gateway = Gateway()
    owner = gateway.infer(runners, name, start=True)
    grown = [*fleet(newcomers, count), *runners]
    asking = gateway if remembers else Gateway()
    asking.attempts = 0
    assert asking.infer(grown, name) is owner
    assert asking.attempts <= (1 if remembers else 1 + newcomers)
    asking.attempts = 0
    assert asking.infer(grown, name) is owner
    assert asking.attempts == 1


@given(names, st.integers(2, 8), st.data())
def test_other_runners_may_leave(name: str, count: int, data: st.DataObject) -> None:
    runners = fleet(count)
    owner = Gateway().infer(runners, name, start=True)
    assert owner is not None
    staying = [owner, *data.draw(st.lists(st.sampled_from(runners), unique_by=id))]
    left = [runner for runner in runners if runner in staying]
    asking = Gateway()
    assert asking.infer(left, name) is owner
    assert asking.attempts == 1


@given(names, st.integers(1, 6))
def test_a_lost_sequence_is_known_to_nobody(name: str, count: int) -> None:
    runners = fleet(count)
    gateway = Gateway()
    owner = gateway.infer(runners, name, start=True)
    left = [runner for runner in runners if runner is not owner]
    assert gateway.infer(left, name) is None
    assert (gateway.infer(left, name, start=True) is not None) == bool(left)


def test_a_call_waits_for_its_own_replica_and_a_new_sequence_goes_elsewhere() -> None:
    runners = fleet(3)
    gateway = Gateway()
    owner = gateway.infer(runners, "s", start=True)
    assert owner is not None
    owner.usable = False
    assert gateway.pick(runners, Call("s")) is None
    assert Gateway().pick(runners, Call("s")) is None
    fresh = Gateway().pick(runners, Call("s", sequence_start=True))
    assert fresh is not None
    assert fresh is not owner


def test_sequences_spread_over_the_runners() -> None:
    runners = fleet(4)
    gateway = Gateway(remembered_max=1)
    spread = Counter(runner.id for index in range(4_000) if (runner := gateway.pick(runners, Call(f"n{index}", True))))
    assert set(spread) == {runner.id for runner in runners}
    assert max(spread.values()) < 1.2 * min(spread.values())


def test_preferred_devices_come_first() -> None:
    runners = fleet(4)
    for runner in runners[:3]:
        runner.device_rank = 1
    assert all(Gateway().pick(runners, Call(f"n{index}", True)) is runners[3] for index in range(20))


def test_what_was_forgotten_is_found_by_its_rank() -> None:
    """Either by the bound, or because the runner has forgotten the sequence by now itself."""
    runners = fleet(2)
    gateway = Gateway(remembered_max=1)
    owner = gateway.infer(runners, "s", start=True)
    gateway.infer(runners, "other", start=True)
    assert gateway.infer(runners, "s") is owner
    newer = [Runner(f"runner-{index}.boot", f"token-{index}") for index in range(2, 40)]
    gateway.clock.advance(61)
    found = gateway.pick([*runners, *newer], Call("s", sequence_start=True))
    assert found is Gateway().pick([*runners, *newer], Call("s", sequence_start=True))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=40))
def test_calls_of_a_sequence_have_their_turn_in_the_order_they_came(steps: list[tuple[str, bool]]) -> None:
    order: SequenceOrder[int] = SequenceOrder()
    lines: dict[str, list[int]] = {"a": [], "b": []}
    for number, (name, comes) in enumerate(steps):
        line = lines[name]
        if comes or not line:
            assert order.enter(("u", name), number) == (not line)
            line.append(number)
        else:
            leaves = line[number % len(line)]
            first = leaves == line[0]
            line.remove(leaves)
            assert order.leave(("u", name), leaves) == (line[0] if first and line else None)
    assert len(order) == sum(bool(line) for line in lines.values())
