"""What a failed attempt says: whether another one may help, and whose fault it was."""

from __future__ import annotations

from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry

RETRIES_MAX = 2
LOSSES_MAX = 1
"""A call that two runners died of is not given a third."""
SILENCE_S = 1.0


def _reasons(*entries: CatalogueEntry) -> frozenset[str]:
    return frozenset(entry.reason for entry in entries)


MOVES = _reasons(catalogue.RUNNER_LOST, catalogue.RUNNER_DRAINING, catalogue.MODEL_LOADING)
"""The runner is no longer a place for the call. It goes elsewhere whatever is left of the budget: a runner that dies
has at most its bulkhead of calls, each of which moves once, and a runner that is gone gets no more to refuse."""

GONE = _reasons(catalogue.RUNNER_LOST, catalogue.MODEL_LOADING)
"""The gateway knows at once that the runner is no replica any more; after the others it is one that has refused."""

ELSEWHERE = MOVES | _reasons(catalogue.RUNNER_OVERLOADED, catalogue.DEVICE_OUT_OF_MEMORY, catalogue.MODEL_PROCESS_LOST)
"""Failures of one runner that say nothing about another."""

ASK_NEXT = _reasons(catalogue.SEQUENCE_NOT_FOUND)
"""Nothing was computed: another replica may know the sequence."""

START_ELSEWHERE = _reasons(catalogue.SEQUENCE_LIMIT_REACHED, catalogue.RUNNER_OVERLOADED, catalogue.MODEL_LOADING)
"""Nothing was computed: a sequence that begins may begin at another replica."""

ASKS_MAX = 8
"""How often a call is sent at most that those before computed nothing of: one of a sequence, or the rest of a text."""

AT_ONCE = _reasons(catalogue.RUNNER_OVERLOADED)
"""Refusals for load: where no other replica is free the client is told at once, with a hint, instead of being kept
waiting by a gateway that adds to the load."""

RUNNER_FAULTS = _reasons(catalogue.INTERNAL_ERROR)
"""Failures that no model explains."""

REPLICA_FAULTS = RUNNER_FAULTS | _reasons(
    catalogue.EXECUTION_TIMEOUT,
    catalogue.MODEL_EXECUTION_FAILED,
    catalogue.DEVICE_OUT_OF_MEMORY,
)
"""What a circuit breaker counts. Never what a client did wrong, and never a refusal for load. Neither the loss of a
runner: with it its replicas are gone, and one that only fell silent is judged by its heartbeats. Nor that of a model's
process, which the runner starts again: a breaker would keep calls away for longer than that takes."""


def counts_as_failure(reason: str, *, waited_s: float, since_success_s: float, generates: bool = False) -> bool:
    """Whether a breaker and the outlier detection count the failure against the replica.

    A deadline that passes says more about the client's patience and the queue than about the replica. It counts when
    the replica had the call for a second or more, and has answered nothing else in all that time. Of a model that
    generates it never counts: a long prompt takes its time, and runners watch themselves whether its process answers.

    Args:
        reason: Of the error catalogue.
        waited_s: How long the replica had the call.
        since_success_s: Time since the replica last answered any call well.
        generates: Whether the model does.
    """
    if reason == catalogue.INFERENCE_TIMEOUT.reason:
        return not generates and waited_s >= SILENCE_S and since_success_s >= waited_s
    return reason in REPLICA_FAULTS
