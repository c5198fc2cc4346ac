"""Who gets slots of a model that generates."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace_runner.execution.fair_queue import Waiting
from headrace_runner.execution.generation.slot_scheduler import SlotScheduler
from headrace_runner.execution.policy import SchedulingPolicy


def policy(*, waiting_max: int = 100, waiting_bytes_max: int = 1 << 20, **more: object) -> SchedulingPolicy:
    return SchedulingPolicy(waiting_max=waiting_max, waiting_bytes_max=waiting_bytes_max, **more)  # type: ignore[arg-type]


@dataclass
class Slots:
    """A scheduler, and a clock that only tests move."""

    slots: int = 4
    policy: SchedulingPolicy = field(default_factory=policy)
    prompt_tokens_max: int = 100
    now: float = 0.0

    def __post_init__(self) -> None:
        self.scheduler: SlotScheduler[str] = SlotScheduler(
            policy=self.policy, slots=self.slots, prompt_tokens_max=self.prompt_tokens_max
        )

    def wait(
        self,
        name: str,
        *,
        slots: int = 1,
        tenant: str = "t",
        priority: int = 5,
        tokens: int = 10,
        prompt_tokens: int = 1,
        deadline: float = 1e9,
    ) -> None:
        assert self.scheduler.enter(name, priority=priority, payload_bytes=1) is None
        waiting = Waiting(name, tenant, priority, None, tokens, 1, deadline, self.now)
        self.scheduler.queue(waiting, slots=slots, prompt_tokens=prompt_tokens)

    def start(self) -> list[str]:
        return self.scheduler.start(self.now)


def test_as_many_start_as_there_are_slots() -> None:
    slots = Slots()
    for name in "abcdef":
        slots.wait(name)
    assert slots.start() == ["a", "b", "c", "d"]
    slots.scheduler.release("b")
    assert slots.start() == ["e"]
    assert (slots.scheduler.used, slots.scheduler.running, slots.scheduler.waiting) == (4, 4, 1)


def test_one_that_needs_many_slots_gets_them_at_once_and_is_not_overtaken() -> None:
    slots = Slots()
    slots.wait("first")
    assert slots.start() == ["first"]
    slots.wait("all", slots=4)
    slots.wait("small")
    assert slots.start() == []
    slots.scheduler.release("first")
    assert slots.start() == ["all"]
    for _ in range(3):
        slots.scheduler.release("all")
    assert slots.start() == ["small"]


def test_a_completion_that_ends_early_gives_its_slot_to_the_next() -> None:
    slots = Slots()
    slots.wait("many", slots=4)
    slots.wait("one")
    slots.start()
    slots.scheduler.release("many")
    assert slots.start() == ["one"]
    slots.scheduler.leave("many")
    assert slots.scheduler.used == 1


def test_prompts_are_computed_together_up_to_their_tokens() -> None:
    slots = Slots(prompt_tokens_max=100)
    slots.wait("a", prompt_tokens=60)
    slots.wait("b", prompt_tokens=40)
    slots.wait("late", prompt_tokens=1)
    assert slots.start() == ["a", "b"]
    slots.wait("urgent", prompt_tokens=80, priority=9)
    slots.scheduler.computed("b", 40)
    slots.scheduler.computed("a", 39)
    assert slots.start() == [], "the urgent one is next, and is not overtaken"
    slots.scheduler.computed("a", 1)
    assert slots.start() == ["urgent"]
    slots.scheduler.leave("a")
    assert slots.start() == ["late"]
    assert slots.scheduler.prompt_tokens == 81


def test_each_completion_computes_the_prompt_and_a_prompt_above_the_limit_is_computed_alone() -> None:
    slots = Slots(prompt_tokens_max=100)
    slots.wait("long", slots=2, prompt_tokens=90)
    slots.wait("short", prompt_tokens=1)
    assert slots.start() == ["long"]
    slots.scheduler.computed("long", 90)
    assert slots.start() == ["short"]
    slots.wait("longer", prompt_tokens=200)
    slots.scheduler.computed("long", 90)
    assert slots.start() == []
    slots.scheduler.computed("short", 1)
    assert slots.start() == ["longer"]


def test_urgent_calls_go_first_and_waiting_makes_urgent() -> None:
    slots = Slots(slots=1)
    slots.wait("running")
    slots.start()
    slots.wait("idle", priority=0)
    slots.now = 20.0
    slots.wait("urgent", priority=9)
    slots.scheduler.release("running")
    assert slots.start() == ["idle"]


def test_tenants_share_slots_by_tokens() -> None:
    slots = Slots(slots=1, policy=policy(waiting_max=200))
    for number in range(100):
        slots.wait(f"long{number}", tenant="long", tokens=900)
        slots.wait(f"short{number}", tenant="short", tokens=100)
    tokens = {"long": 0, "short": 0}
    for _ in range(60):
        (name,) = slots.start()
        tenant = name.rstrip("0123456789")
        tokens[tenant] += 900 if tenant == "long" else 100
        slots.scheduler.release(name)
    assert abs(tokens["long"] - tokens["short"]) <= 900


def test_of_one_tenant_the_earliest_deadline_is_first() -> None:
    slots = Slots(slots=1)
    slots.wait("late", deadline=20)
    slots.wait("early", deadline=10)
    assert slots.start() == ["early"]


def test_a_full_queue_says_which_limit_is_reached() -> None:
    slots = Slots(slots=1, policy=policy(waiting_max=2, priority_waiting_max={0: 1}))
    scheduler = slots.scheduler
    slots.wait("running")
    slots.start()
    assert scheduler.enter("a", priority=0, payload_bytes=1) is None
    refused = scheduler.enter("b", priority=0, payload_bytes=1)
    assert refused is not None
    assert (refused.limit, refused.what) == (1, "calls of priority 0 wait")
    assert scheduler.enter("c", priority=5, payload_bytes=1) is None
    refused = scheduler.enter("d", priority=9, payload_bytes=1)
    assert refused is not None
    assert refused.limit == 2
    scheduler.leave("a")
    assert scheduler.enter("d", priority=9, payload_bytes=1) is None


def test_bytes_that_wait_are_bounded() -> None:
    scheduler = Slots(slots=1, policy=policy(waiting_bytes_max=10)).scheduler
    assert scheduler.enter("free slot", priority=5, payload_bytes=8) is None
    assert scheduler.enter("a", priority=5, payload_bytes=3) is not None
    assert scheduler.enter("b", priority=5, payload_bytes=2) is None


class SlotsMachine(RuleBasedStateMachine):
    """Calls come, wait, run and go in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots()
        self.entered: set[str] = set()
        self.queued: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self.prompts: dict[str, int] = {}
        self.count = 0

    @rule(priority=st.integers(0, 9))
    def enter(self, priority: int) -> None:
        self.count += 1
        name = f"{self.count}/{priority}"
        assert self.slots.scheduler.enter(name, priority=priority, payload_bytes=3) is None
        self.entered.add(name)

    @precondition(lambda self: self.entered)
    @rule(
        data=st.data(),
        slots=st.integers(1, 4),
        tokens=st.integers(1, 1_000),
        prompt_tokens=st.integers(1, 120),
        tenant=st.sampled_from("ab"),
    )
    def queue(self, data: st.DataObject, slots: int, tokens: int, prompt_tokens: int, tenant: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.entered)))
        self.entered.remove(name)
        priority = int(name.split("/")[1])
        waiting = Waiting(name, tenant, priority, None, tokens, 3, self.slots.now + 60, self.slots.now)
        self.slots.scheduler.queue(waiting, slots=slots, prompt_tokens=prompt_tokens)
        self.queued[name] = slots
        self.prompts[name] = slots * prompt_tokens

    @rule()
    def start(self) -> None:
        for name in self.slots.start():
            self.running[name] = self.queued.pop(name)
        free, computing = 4 - sum(self.running.values()), self.computing()
        # Whoever still waits is not there because of nothing: the next one needs more than is free.
        assert not self.queued or any(
            slots > free or (computing and computing + self.prompts[name] > 100) for name, slots in self.queued.items()
        )

    def computing(self) -> int:
        return sum(self.prompts[name] for name in self.running)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def computed(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        tokens = data.draw(st.integers(0, self.prompts[name]))
        self.slots.scheduler.computed(name, tokens)
        self.prompts[name] -= tokens

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.slots.scheduler.release(name)
        self.running[name] -= 1
        if not self.running[name]:
            del self.running[name]

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        everyone = sorted(self.entered | self.queued.keys() | self.running.keys())
        if everyone:
            name = data.draw(st.sampled_from(everyone))
            self.slots.scheduler.leave(name)
            self.slots.scheduler.leave(name)
            self.entered.discard(name)
            self.queued.pop(name, None)
            self.running.pop(name, None)

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.slots.now += seconds

    @invariant()
    def slots_are_never_exceeded_and_never_lost(self) -> None:
        scheduler = self.slots.scheduler
        assert scheduler.used == sum(self.running.values()) <= 4
        assert scheduler.running == len(self.running)
        assert scheduler.prompt_tokens == self.computing()
        assert scheduler.waiting == len(self.entered) + len(self.queued)

    def teardown(self) -> None:
        """Nobody starves: when those that run end, all others get their turn."""
        for name in list(self.entered):
            self.slots.scheduler.leave(name)
        self.entered.clear()
        for _ in range(len(self.queued) + 1):
            for name in list(self.running):
                self.slots.scheduler.leave(name)
                del self.running[name]
            self.start()
        assert not self.queued
        for name in list(self.running):
            self.slots.scheduler.leave(name)
        assert (self.slots.scheduler.used, self.slots.scheduler.waiting_tokens) == (0, 0)


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
