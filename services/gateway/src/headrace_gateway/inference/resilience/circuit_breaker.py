"""Keeps calls away from a replica that fails, and lets a few through to see whether it has recovered."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TypeAlias

WINDOW_S = 10.0


class BreakerState(IntEnum):
    """States of a circuit breaker, with the numbers that metrics show."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


Transition: TypeAlias = Callable[[BreakerState, BreakerState], None]


class CircuitBreaker:
    """Opens when too many of the last calls have failed; lets one at a time through after a while; closes on success.

    Failures and successes are counted over the present and the last half of a rolling window of ten seconds. Pure: each
    method is told the time, a reading of a monotonic clock. Everything is O(1). While it tries whether the replica has
    recovered, only calls count that were sent for that; one that is not answered for as long as the breaker stays open
    leaves its place to another.
    Source: Nygard, "Release It!", 2nd edition 2018, chapter 5.

    Args:
        volume: Calls in the window before it judges.
        ratio: Share of failures that opens it.
        open_s: How long it stays open.
        successes: Successes in a row that close it.
        changed: Told the former and the new state after each transition.

    Attributes:
        ok: Successes in the present half of the window, which is over at `half_ends_at`: until then, and while it is
            closed, a success may be added here instead of being told.
    """

    __slots__ = (
        "_changed",
        "_failed",
        "_failed_before",
        "_ok_before",
        "_open_s",
        "_probe_at",
        "_probe_open",
        "_ratio",
        "_successes",
        "_successes_in_row",
        "_volume",
        "half_ends_at",
        "ok",
        "opened_at",
        "state",
    )

    def __init__(self, *, volume: int, ratio: float, open_s: float, successes: int, changed: Transition) -> None:
        self.state = BreakerState.CLOSED
        self.opened_at = 0.0
        self._volume = volume
        self._ratio = ratio
        self._open_s = open_s
        self._successes = successes
        self._changed = changed
        self._successes_in_row = 0
        self._probe_open = False
        self._probe_at = 0.0
        self.half_ends_at = 0.0
        self.ok = self._failed = self._ok_before = self._failed_before = 0

    def allows(self, now: float) -> bool:
        """Whether a call may be sent. Changes nothing, so it may be asked for many replicas."""
        return self.state is BreakerState.CLOSED or now >= self._shut_until

    def probe_due_s(self, now: float) -> float:
        """Seconds until a call may be sent whatever becomes of one that is on its way; 0 when one may."""
        return 0.0 if self.state is BreakerState.CLOSED else max(0.0, self._shut_until - now)

    def sent(self, now: float) -> None:
        """A call goes to the replica; to be told unless it is closed. The caller has asked `allows`."""
        if self.state is BreakerState.OPEN:
            self._successes_in_row = 0
            self._become(BreakerState.HALF_OPEN)
        self._probe_open = self.state is BreakerState.HALF_OPEN
        self._probe_at = now

    def succeeded(self, now: float, sent_at: float) -> None:
        """A call that was sent then was answered, be it with what the client did wrong."""
        if self.state is BreakerState.CLOSED:
            if now >= self.half_ends_at:
                self._turn(now)
            self.ok += 1
        elif self._was_probe(sent_at):
            self._probe_open = False
            self._successes_in_row += 1
            if self._successes_in_row >= self._successes:
                self.ok = self._failed = self._ok_before = self._failed_before = 0
                self._become(BreakerState.CLOSED)

    def failed(self, now: float, sent_at: float) -> None:
        """A call that was sent then failed by the replica's fault."""
        if self._was_probe(sent_at):
            self._probe_open = False
            self._open(now)
        elif self.state is BreakerState.CLOSED:
            if now >= self.half_ends_at:
                self._turn(now)
            self._failed += 1
            failed = self._failed + self._failed_before
            total = failed + self.ok + self._ok_before
            if total >= self._volume and failed >= self._ratio * total:
                self._open(now)

    def abandoned(self, sent_at: float) -> None:
        """A call ended and says nothing: it was cancelled, or refused for load. A probe's place is free again."""
        if self._was_probe(sent_at):
            self._probe_open = False

    def trip(self, now: float) -> None:
        """The replica answers nothing: it opens without failures, if it is closed."""
        if self.state is BreakerState.CLOSED:
            self._open(now)

    @property
    def _shut_until(self) -> float:
        """When a call may be sent, while it is not closed."""
        if self.state is BreakerState.OPEN:
            return self.opened_at + self._open_s
        return self._probe_at + self._open_s if self._probe_open else 0.0

    def _was_probe(self, sent_at: float) -> bool:
        """Whether a call decides something now: those that were sent before it opened say nothing new."""
        return self.state is BreakerState.HALF_OPEN and sent_at >= self.opened_at + self._open_s

    def _open(self, now: float) -> None:
        self.opened_at = now
        self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        former, self.state = self.state, state
        self._changed(former, state)

    def _turn(self, now: float) -> None:
        half_s = WINDOW_S / 2
        recent = now < self.half_ends_at + half_s
        self._ok_before = self.ok if recent else 0
        self._failed_before = self._failed if recent else 0
        self.ok = self._failed = 0
        self.half_ends_at = now + half_s
