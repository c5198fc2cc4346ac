"""What a manifest may say of execution: batches, queues, timeouts, warm-up. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from headrace.registry.v1.manifest_pb2 import (
    BatchingPolicy,
    ExecutionPolicy,
    QueuePolicy,
    TensorSpec,
    WarmUpSample,
)
from headrace_registry.field_rules import TEXT_CHARS_MAX
from headrace_registry.manifest_faults import mismatch, wrong
from headrace_registry.tensor_rules import check_elements, check_fits, check_raw

EXECUTION_LIMITS = {"instances": 64, "threads": 256, "replicas": 64}
BATCH_SIZE_MAX = 65_536
BATCH_SIZE_DEFAULT = 64
QUEUE_DELAY_MAX_S = 1
PREFERRED_MAX = 16
PRIORITY_MAX = 9
TIMEOUT_MAX_S = 3_600
SAMPLES_MAX = 16
SAMPLE_COUNT_MAX = 100
SAMPLE_INPUTS_MAX = 1_024

_NS = 1_000_000_000


def check_execution(execution: ExecutionPolicy) -> None:
    """Refuses what can't be right whatever the model's tensors are.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT); names the field and its limit.
    """
    values = {"instances": execution.instances, "threads": execution.threads, "replicas": execution.replicas}
    for name, limit in EXECUTION_LIMITS.items():
        _at_most(f"execution.{name}", values[name], limit)
    _check_batching(execution.batching)
    _check_queue(execution.queue)
    if execution.HasField("timeout"):
        check_duration("execution.timeout", execution.timeout, max_s=TIMEOUT_MAX_S)
    if len(execution.warm_up) > SAMPLES_MAX:
        raise wrong("execution.warm_up", f"has {len(execution.warm_up)} samples, at most {SAMPLES_MAX} are allowed")
    for index, sample in enumerate(execution.warm_up):
        _check_sample(f"execution.warm_up[{index}]", sample)


def check_duration(field: str, duration: Duration, *, max_s: int | None, positive: bool = True) -> None:
    """Refuses a duration below zero, or zero where it must be `positive`, or above `max_s` seconds.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT).
    """
    if not -_NS < duration.nanos < _NS:
        raise wrong(field, f"has {duration.nanos} nanoseconds beside its seconds, a second has {_NS}")
    span_ns = duration.seconds * _NS + duration.nanos
    if span_ns < 0 or min(duration.seconds, duration.nanos) < 0:
        raise wrong(field, "must not be negative")
    if positive and not span_ns:
        raise wrong(field, "must be more than 0 s")
    if max_s is not None and span_ns > max_s * _NS:
        raise wrong(field, f"is {span_ns / _NS:g} s, at most {max_s} s is allowed")


def check_warm_up(samples: Sequence[WarmUpSample], inputs: Sequence[TensorSpec]) -> None:
    """Refuses samples that the model can't take. They have passed `check_execution`.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT).
    """
    specs = {spec.name: spec for spec in inputs}
    for index, sample in enumerate(samples):
        for name, tensor in sample.inputs.items():
            field = f"execution.warm_up[{index}].inputs[{name[:TEXT_CHARS_MAX]}]"
            spec = specs.get(name)
            if spec is None:
                raise mismatch(field, "is no input of the model")
            check_fits(f"{field}.shape", tensor.shape, spec)
            if tensor.raw:
                check_raw(f"{field}.raw", tensor.raw, datatype=spec.datatype, shape=tensor.shape)
            elif tensor.random and spec.datatype == "BYTES":
                raise mismatch(f"{field}.random", "is true, but there are no random BYTES")


def _check_batching(batching: BatchingPolicy) -> None:
    field = "execution.batching"
    _at_most(f"{field}.max_batch_size", batching.max_batch_size, BATCH_SIZE_MAX)
    check_duration(f"{field}.max_queue_delay", batching.max_queue_delay, max_s=QUEUE_DELAY_MAX_S, positive=False)
    sizes = batching.preferred_batch_sizes
    if len(sizes) > PREFERRED_MAX:
        raise wrong(f"{field}.preferred_batch_sizes", f"has {len(sizes)} sizes, at most {PREFERRED_MAX} are allowed")
    limit = batching.max_batch_size or BATCH_SIZE_DEFAULT
    for index, size in enumerate(sizes):
        place = f"{field}.preferred_batch_sizes[{index}]"
        if size > limit:
            raise wrong(place, f"is {size}, max_batch_size is {limit}")
        if size <= (sizes[index - 1] if index else 0):
            raise wrong(place, f"is {size}, it must be at least 1 and above the one before")


def _check_queue(queue: QueuePolicy) -> None:
    field = "execution.queue"
    if queue.HasField("timeout"):
        check_duration(f"{field}.timeout", queue.timeout, max_s=None)
    seen: set[int] = set()
    for index, policy in enumerate(queue.priorities):
        place = f"{field}.priorities[{index}]"
        _at_most(f"{place}.priority", policy.priority, PRIORITY_MAX)
        if policy.priority in seen:
            raise wrong(f"{place}.priority", f"repeats {policy.priority}")
        seen.add(policy.priority)
        if policy.HasField("timeout"):
            check_duration(f"{place}.timeout", policy.timeout, max_s=None)


def _check_sample(field: str, sample: WarmUpSample) -> None:
    _at_most(f"{field}.count", sample.count, SAMPLE_COUNT_MAX)
    if len(sample.inputs) > SAMPLE_INPUTS_MAX:
        raise wrong(f"{field}.inputs", f"has {len(sample.inputs)} inputs, at most {SAMPLE_INPUTS_MAX} are allowed")
    for name, tensor in sample.inputs.items():
        place = f"{field}.inputs[{name[:TEXT_CHARS_MAX]}]"
        check_elements(f"{place}.shape", tensor.shape)
        if tensor.raw and tensor.random:
            raise wrong(f"{place}.random", "must not be true beside `raw`")


def _at_most(field: str, value: int, limit: int) -> None:
    if value > limit:
        raise wrong(field, f"is {value}, at most {limit} is allowed")
