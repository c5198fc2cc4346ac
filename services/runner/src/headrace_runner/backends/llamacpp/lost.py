"""What callers are told while a model's process is not there."""

from __future__ import annotations

from headrace_common import catalogue
from headrace_common.errors import InferenceTimeout, RunnerUnavailable

_RETRY_AFTER_S = 1.0


def process_lost() -> RunnerUnavailable:
    """UNAVAILABLE: the process ended, or does not answer."""
    return RunnerUnavailable(
        "the process that computes the model ended; it is being started again",
        entry=catalogue.MODEL_PROCESS_LOST,
        retry_after_s=_RETRY_AFTER_S,
    )


def took_too_long(limit_s: float) -> InferenceTimeout:
    """DEADLINE_EXCEEDED: the process is there, and has not answered for so long."""
    return InferenceTimeout(
        f"the model did not answer within {limit_s:g} s",
        entry=catalogue.EXECUTION_TIMEOUT,
        context={"timeout_s": f"{limit_s:g}"},
    )
