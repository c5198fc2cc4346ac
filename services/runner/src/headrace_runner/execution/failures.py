"""What a replica tells callers whose calls it doesn't answer. `name` is always the model and its version."""

from __future__ import annotations

from headrace_common import catalogue
from headrace_common.errors import InferenceTimeout, RunnerUnavailable, TensorError
from headrace_runner.execution.scheduler import Refusal


def deadline_over() -> InferenceTimeout:
    """DEADLINE_EXCEEDED: the call came too late."""
    return InferenceTimeout(
        "the call's deadline was over before its execution could begin", entry=catalogue.DEADLINE_ALREADY_OVER
    )


def deadline_passed(name: str, *, executing: bool) -> InferenceTimeout:
    """DEADLINE_EXCEEDED: the deadline passed here."""
    where = "executing" if executing else "waiting for an execution slot"
    return InferenceTimeout(
        f"the deadline of the call to {name} passed while it was {where}",
        entry=catalogue.INFERENCE_TIMEOUT,
        context={"model": name},
    )


def unreachable(name: str, needed_s: float) -> InferenceTimeout:
    """DEADLINE_EXCEEDED: less time is left than an execution takes."""
    return InferenceTimeout(
        f"{name} takes about {needed_s:.3g} s, more than the call has left",
        entry=catalogue.DEADLINE_UNREACHABLE,
        context={"model": name, "needed_s": f"{needed_s:.3g}"},
    )


def too_long(name: str, timeout_s: float) -> InferenceTimeout:
    """DEADLINE_EXCEEDED: the watchdog gave the execution up."""
    return InferenceTimeout(
        f"{name} computed for {timeout_s:.3g} s, which is as long as an execution may take",
        entry=catalogue.EXECUTION_TIMEOUT,
        context={"model": name, "timeout_s": f"{timeout_s:.3g}"},
    )


def too_many_rows(name: str, rows: int, rows_max: int) -> TensorError:
    """INVALID_ARGUMENT: the request is larger than any batch."""
    return TensorError(
        f"the request has {rows} rows, {name} takes at most {rows_max}",
        entry=catalogue.TENSOR_BATCH_TOO_LARGE,
        context={"limit": rows_max, "actual": rows},
    )


def overloaded(name: str, refusal: Refusal, retry_after_s: float) -> RunnerUnavailable:
    """RESOURCE_EXHAUSTED: the queue is full."""
    return RunnerUnavailable(
        f"the queue of {name} is full on this runner: {refusal.limit} {refusal.what}",
        entry=catalogue.RUNNER_OVERLOADED,
        context={"model": name, "limit": refusal.limit},
        retry_after_s=retry_after_s,
    )


def waited_too_long(name: str, waited_s: float, retry_after_s: float) -> RunnerUnavailable:
    """RESOURCE_EXHAUSTED: the model's policy lets no call wait longer."""
    return RunnerUnavailable(
        f"the call waited {waited_s:.3g} s in the queue of {name}, which is as long as one may",
        entry=catalogue.QUEUE_TIMEOUT,
        context={"model": name, "timeout_s": f"{waited_s:.3g}"},
        retry_after_s=retry_after_s,
    )


def instance_lost() -> RunnerUnavailable:
    """UNAVAILABLE: the call waited behind an execution that was given up; it has not been executed."""
    return RunnerUnavailable("the instance that had the call was given up", entry=catalogue.RUNNER_LOST)


def leaving() -> RunnerUnavailable:
    """UNAVAILABLE: the model or the runner goes away."""
    return RunnerUnavailable("the runner that had the call is leaving", entry=catalogue.RUNNER_DRAINING)
