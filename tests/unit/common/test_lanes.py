"""Two ends of a session against each other, with everything that can be reordered reordered."""

from __future__ import annotations

import tracemalloc
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_common.lanes import (
    ByteBudget,
    Chunk,
    CreditGrant,
    CreditWindow,
    Inbox,
    LaneLimits,
    LaneViolation,
    Outbox,
    Payload,
    PayloadParts,
    decode_chunks,
    encode_chunk,
)

LIMITS = LaneLimits(
    frame_bytes_max=64,
    inline_bytes_max=16,
    chunk_bytes=10,
    header_bytes_max=4,
    message_bytes_max=100,
    window_messages=4,
    window_bytes=40,
)


@dataclass
class Link:
    """One direction of a session: what the sender has, what is in flight on each lane, what was delivered."""

    budget: ByteBudget
    outbox: Outbox[str] = field(default_factory=lambda: Outbox(limits=LIMITS))
    small: deque[tuple[int, str, Payload, bool]] = field(default_factory=deque)
    bulk: deque[bytes] = field(default_factory=deque)
    accepts: deque[int] = field(default_factory=deque)
    delivered: dict[int, bytes] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    withdrawn: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.inbox: Inbox[str] = Inbox(limits=LIMITS, budget=self.budget, wake=lambda: None)

    def step(self, action: str) -> None:
        if action == "pack":
            parcels = self.outbox.pack()
            inline_bytes = sum(len(p.payload) for p in parcels if not p.offered)
            assert inline_bytes <= LIMITS.frame_bytes_max
            self.small.extend((p.id, p.header, p.payload, p.offered) for p in parcels)
        elif action == "chunk":
            chunk = self.outbox.next_chunk()
            if chunk is not None:
                assert 0 < len(chunk.data) <= LIMITS.chunk_bytes
                self.bulk.append(encode_chunk(6, chunk))
        elif action == "small" and self.small:
            self._receive(*self.small.popleft())
        elif action == "bulk" and self.bulk:
            for chunk in decode_chunks(6, self.bulk.popleft()):
                whole = self.inbox.chunk(chunk)
                if whole is not None:
                    self._deliver(chunk.id, bytes(whole[1]))
        elif action == "accept":
            self.accepts.extend(self.inbox.accepts())
            while self.accepts:
                self.outbox.accepted(self.accepts.popleft())
        elif action == "credit":
            due = self.inbox.grant.due(only_if_needed=True)
            if due is not None:
                self.outbox.credit.grant(*due)
        assert self.budget.held_bytes <= self.budget.total_bytes
        assert self.inbox.grant.open_messages <= LIMITS.window_messages
        assert self.inbox.grant.open_bytes <= LIMITS.window_bytes

    def _receive(self, call_id: int, header: str, payload: Payload, offered: bool) -> None:
        if offered:
            self.inbox.offer(call_id, header, len(payload))
        else:
            self.inbox.message(call_id, len(payload))
            self._deliver(call_id, bytes(payload))
        self.open.add(call_id)

    def _deliver(self, call_id: int, payload: bytes) -> None:
        assert call_id not in self.delivered
        self.delivered[call_id] = payload

    def finish(self, call_id: int) -> None:
        self.inbox.done(call_id)
        self.open.discard(call_id)


ACTIONS = ("pack", "chunk", "small", "bulk", "accept", "credit")


def settle(links: list[Link]) -> None:
    for _ in range(400):
        for link in links:
            for action in ACTIONS:
                link.step(action)
            for call_id in list(link.open):
                if call_id in link.delivered or call_id in link.withdrawn:
                    link.finish(call_id)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 100), max_size=12),
    script=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from((*ACTIONS, "push", "finish", "withdraw"))), max_size=120
    ),
    pick=st.randoms(use_true_random=False),
)
def test_every_message_arrives_whole_once_and_all_room_comes_back(sizes, script, pick) -> None:
    budget = ByteBudget(total_bytes=130)
    links = [Link(budget), Link(budget)]
    waiting = list(enumerate(sizes, start=1))
    sent: dict[int, tuple[Link, bytes]] = {}
    for which, action in script:
        link = links[which]
        if action == "push":
            if waiting:
                call_id, size = waiting.pop(0)
                payload = pick.randbytes(size)
                sent[call_id] = (link, payload)
                link.outbox.push(call_id, f"header-{call_id}", payload)
        elif action == "finish":
            for call_id in list(link.open & link.delivered.keys())[:1]:
                link.finish(call_id)
        elif action == "withdraw":
            mine = [i for i, (owner, _) in sent.items() if owner is link and i not in link.delivered]
            if mine:
                call_id = pick.choice(mine)
                if link.outbox.withdraw(call_id) is not None:
                    link.withdrawn.add(call_id)
        else:
            link.step(action)
    settle(links)
    for call_id, (link, payload) in sent.items():
        if call_id in link.withdrawn:
            assert call_id not in link.delivered
        else:
            assert link.delivered[call_id] == payload
    for link in links:
        assert link.inbox.open == 0
        assert (link.inbox.grant.open_messages, link.inbox.grant.open_bytes) == (0, 0)
        assert link.outbox.pending == 0
        assert link.outbox.has_room(LIMITS.inline_bytes_max)
    assert (budget.held_bytes, budget.waiting) == (0, 0)


def granted(inbox: Inbox[str]) -> Inbox[str]:
    assert inbox.grant.due(only_if_needed=False) == (LIMITS.window_messages, LIMITS.window_bytes)
    return inbox


def new_inbox(total_bytes: int = 200) -> Inbox[str]:
    return granted(Inbox(limits=LIMITS, budget=ByteBudget(total_bytes=total_bytes), wake=lambda: None))


def test_message_without_credit_is_a_violation() -> None:
    inbox = Inbox[str](limits=LIMITS, budget=ByteBudget(total_bytes=1), wake=lambda: None)
    with pytest.raises(LaneViolation, match="without credit"):
        inbox.message(1, 0)


def test_id_in_use_is_a_violation() -> None:
    inbox = new_inbox()
    inbox.message(1, 3)
    with pytest.raises(LaneViolation, match="in use"):
        inbox.message(1, 3)


def test_inline_payload_over_the_limit_is_a_violation() -> None:
    with pytest.raises(LaneViolation, match="over the limit"):
        new_inbox().message(1, LIMITS.inline_bytes_max + 1)


def test_offer_larger_than_a_message_is_a_violation() -> None:
    with pytest.raises(LaneViolation, match="over the limit"):
        new_inbox(200).offer(1, "h", LIMITS.message_bytes_max + 1)


def test_offer_larger_than_the_whole_budget_is_left_to_be_refused() -> None:
    inbox = new_inbox(total_bytes=50)
    assert not inbox.offer(1, "large", 51)
    assert inbox.offer(2, "fits", 50)
    assert inbox.accepts() == [2], "it does not block the next one"
    inbox.done(1)
    assert inbox.open == 1


def test_chunk_before_its_offer_was_accepted_is_a_violation() -> None:
    inbox = new_inbox(total_bytes=100)
    inbox.offer(1, "a", 100)
    inbox.offer(2, "b", 50)
    assert inbox.accepts() == [1]
    with pytest.raises(LaneViolation, match="not accepted"):
        inbox.chunk(Chunk(2, memoryview(b"x"), False))


def test_chunk_of_an_unknown_id_is_a_violation_and_of_an_ended_id_is_late() -> None:
    inbox = new_inbox()
    inbox.offer(7, "a", 20)
    inbox.done(7)
    assert inbox.chunk(Chunk(7, memoryview(b"late"), False)) is None
    with pytest.raises(LaneViolation, match="not offered"):
        inbox.chunk(Chunk(8, memoryview(b"x"), False))


@pytest.mark.parametrize("parts", [[b"x" * 19], [b"x" * 20, b"y"], [b""]])
def test_chunks_that_do_not_add_up_are_a_violation(parts: list[bytes]) -> None:
    inbox = new_inbox()
    inbox.offer(1, "a", 20)
    with pytest.raises(LaneViolation, match="add up"):
        for part in parts:
            inbox.chunk(Chunk(1, memoryview(part), part is parts[-1]))


@pytest.mark.parametrize(
    "frame", [b"\xff", b"\x08\x01", b"\x32\x05\x08", encode_chunk(5, Chunk(1, memoryview(b"x"), True))]
)
def test_bulk_frame_with_anything_else_is_a_violation(frame: bytes) -> None:
    with pytest.raises(LaneViolation):
        list(decode_chunks(6, frame))


def test_large_messages_take_turns_chunk_by_chunk() -> None:
    outbox = Outbox[str](limits=LIMITS)
    outbox.credit.grant(10, 10)
    outbox.push(1, "a", b"a" * 40)
    outbox.push(2, "b", b"b" * 20)
    assert [p.offered for p in outbox.pack()] == [True, True]
    outbox.accepted(1)
    outbox.accepted(2)
    order: list[int] = []
    while (chunk := outbox.next_chunk()) is not None:
        order.append(chunk.id)
    assert order == [1, 2, 1, 2, 1, 1]


def test_a_payload_that_arrives_takes_its_size_once() -> None:
    size, part = 32 << 20, memoryview(bytes(1 << 20))
    limits = LaneLimits()
    inbox = Inbox[str](limits=limits, budget=ByteBudget(total_bytes=size), wake=lambda: None)
    inbox.grant.due(only_if_needed=False)
    inbox.offer(1, "h", size)
    whole: tuple[str, bytes | memoryview] | None = None
    tracemalloc.start()
    for end in range(len(part), size + 1, len(part)):
        whole = inbox.chunk(Chunk(1, part, end == size))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert whole == ("h", bytes(size))
    assert peak < 1.01 * size


@pytest.mark.parametrize("size", [17, 64, 1000, 4097])
def test_an_aligned_payload_ends_at_an_aligned_address_and_keeps_its_memory(size: int) -> None:
    limits = LaneLimits(inline_bytes_max=16)
    inbox = Inbox[str](limits=limits, budget=ByteBudget(total_bytes=size), wake=lambda: None, aligned=True)
    inbox.grant.due(only_if_needed=False)
    content = bytes(number % 251 for number in range(size))
    inbox.offer(1, "h", size)
    whole = inbox.chunk(Chunk(1, memoryview(content), True))
    assert whole is not None
    inbox.done(1)
    payload = whole[1]
    assert bytes(payload) == content
    address = np.frombuffer(payload, np.uint8).ctypes.data
    assert (address + size) % 64 == 0
    with pytest.raises(TypeError, match="read-only"):
        memoryview(payload)[0] = 1


@given(cuts=st.lists(st.integers(0, 20_000), max_size=6))
def test_a_payload_in_parts_travels_as_one(cuts: list[int]) -> None:
    content = bytes(number % 251 for number in range(20_000))
    edges = sorted({0, len(content), *cuts})
    payload = PayloadParts(memoryview(content)[start:end] for start, end in pairwise(edges))
    limits = LaneLimits(inline_bytes_max=16, chunk_bytes=3_000)
    outbox = Outbox[str](limits=limits)
    outbox.credit.grant(1, 0)
    outbox.push(1, "h", payload)
    (parcel,) = outbox.pack()
    assert len(parcel.payload) == len(content)
    outbox.accepted(1)
    chunks = list(iter(outbox.next_chunk, None))
    assert b"".join(chunk.data for chunk in chunks) == bytes(payload) == content
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len(chunks) <= len(content) // limits.chunk_bytes + 2 * len(edges)
    assert outbox.pending == 0


def test_repeated_or_older_grants_change_nothing() -> None:
    window = CreditWindow()
    window.grant(2, 100)
    window.spend(60)
    window.grant(2, 100)
    window.grant(1, 50)
    assert (window.messages_left, window.bytes_left) == (1, 40)
    assert window.fits(40) and not window.fits(41)


def test_credit_alone_is_told_only_when_half_a_window_is_free() -> None:
    grant = CreditGrant(messages_max=4, payload_bytes_max=1000)
    assert grant.due(only_if_needed=True) == (4, 1000)
    grant.receive(1)
    grant.give_back(1)
    assert grant.due(only_if_needed=True) is None
    grant.receive(1)
    grant.give_back(1)
    assert grant.due(only_if_needed=True) == (6, 1002)


def test_a_waiting_large_message_is_not_overtaken() -> None:
    budget = ByteBudget(total_bytes=10)
    order: list[str] = []
    for key, size in (("a", 6), ("b", 8), ("c", 1)):
        budget.request(key, size, lambda key=key: order.append(key))
    assert order == ["a"] and budget.waiting == 2
    budget.release("a")
    assert order == ["a", "b", "c"]
    for key in ("b", "c", "c", "unknown"):
        budget.release(key)
    assert budget.held_bytes == 0
