"""When a call is tried again: decisions only, without a clock, a sleep or a random source of their own."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from headrace_client.errors import HeadraceError

_JITTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon a call is tried again.

    Only failures that say so of themselves are retried, after the pause that the mesh advises where it is the longer
    one, and never beyond the call's deadline. All calls of a client share a budget: each failure takes a token, each
    success gives `tokens_per_success` back, and while less than half of `tokens_max` is left nothing is retried, so
    that clients don't keep a mesh down that is coming up.

    Source: gRFC A6, client retries (throttling).

    Attributes:
        attempts_max: Tries in all; 1 means that nothing is retried.
        initial_s: Pause before the second try, in seconds; a fifth more or less at random.
        multiplier: Each further pause is so many times the one before.
        max_s: Longest pause of our own.
        tokens_max: Size of the budget.
        tokens_per_success: What a success gives back to it.
    """

    attempts_max: int = 4
    initial_s: float = 0.1
    multiplier: float = 2.0
    max_s: float = 2.0
    tokens_max: float = 10.0
    tokens_per_success: float = 0.1

    def pause_s(self, attempt: int) -> float:
        """The pause after try number `attempt`, which counts from 1, without jitter and advice."""
        return min(self.initial_s * self.multiplier ** (attempt - 1), self.max_s)


NO_RETRIES = RetryPolicy(attempts_max=1)
"""Every failure reaches the caller."""


class RetryBudget:
    """The tokens that all calls of a client share."""

    def __init__(self, *, tokens_max: float, tokens_per_success: float) -> None:
        self._tokens_max = tokens_max
        self._tokens_per_success = tokens_per_success
        self._tokens = tokens_max

    @property
    def allows_retry(self) -> bool:
        return self._tokens > self._tokens_max / 2

    def succeeded(self) -> None:
        self._tokens = min(self._tokens + self._tokens_per_success, self._tokens_max)

    def failed(self) -> None:
        self._tokens = max(self._tokens - 1, 0)


class Attempts:
    """The tries of one call.

    Args:
        policy: How often and how soon.
        budget: Shared with all calls of the client.
        random: For the jitter.
        deadline_s: When the call's time is over, by the clock that `pause_after` is told.
        made: Tries that have failed already.
    """

    def __init__(
        self, *, policy: RetryPolicy, budget: RetryBudget, random: Random, deadline_s: float, made: int = 0
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._random = random
        self._deadline_s = deadline_s
        self._made = made

    def succeeded(self) -> None:
        """The call was answered."""
        self._budget.succeeded()

    def pause_after(self, failure: HeadraceError, *, now_s: float) -> float | None:
        """Count a try that failed; the pause in seconds before the next one, or None when that was the last."""
        self._made += 1
        if not failure.retryable:
            return None
        self._budget.failed()
        if self._made >= self._policy.attempts_max or not self._budget.allows_retry:
            return None
        jitter = self._random.uniform(1 - _JITTER, 1 + _JITTER)
        pause_s = max(self._policy.pause_s(self._made) * jitter, failure.retry_after_s or 0.0)
        return pause_s if now_s + pause_s < self._deadline_s else None
