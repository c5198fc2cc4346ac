"""The shape of one line of the error catalogue."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How a caller should retry: exponential backoff from `initial_s`, at most `max_s`, `attempts_max` tries in all."""

    initial_s: float = 0.1
    multiplier: float = 2.0
    max_s: float = 2.0
    attempts_max: int = 5

    def delay_s(self, attempt: int) -> float:
        """The pause before try number `attempt + 1`; `attempt` counts from 1. Add your own jitter."""
        return min(self.initial_s * self.multiplier ** (attempt - 1), self.max_s)


SOON = RetryPolicy()
"""For what another replica, or the same one a moment later, can do."""

LATER = RetryPolicy(initial_s=1.0, max_s=30.0, attempts_max=4)
"""For a limit that renews with time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One kind of failure, the same in every service, on every wire and in the documentation.

    Attributes:
        code: Stable identifier, `FAMILY_NNN`. Never reused, never renumbered.
        reason: Stable upper-case name, the `reason` of `google.rpc.ErrorInfo`.
        grpc: Name of the gRPC status code.
        http: HTTP status of the same failure.
        retry: How to retry, or None where a retry can't help.
        context: Names of the context values that the failure carries.
        summary: What happened, for the documentation.
        remedy: What the caller can do about it.
    """

    code: str
    reason: str
    grpc: str
    http: int
    summary: str
    remedy: str
    retry: RetryPolicy | None = None
    context: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return self.code.rsplit("_", 1)[0]

    @property
    def retryable(self) -> bool:
        return self.retry is not None
