"""How one model's calls wait and are put together: what its manifest says, over what the runner is set to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.registry.v1.manifest_pb2 import Manifest

BATCH_ROWS_DEFAULT = 64
_INSTANCES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionLimits:
    """Bounds of every replica of a runner, unless its manifest has its own.

    Attributes:
        threads: Processor threads that all instances of one model share.
        waiting_max: Calls that may wait for one model.
        waiting_bytes_max: Payload bytes that may wait for one model.
        ageing_s: Waiting time that is worth one priority, seconds.
        timeout_s: How long one execution may take, seconds.
        sequence_bytes_max: Memory that the state of one model's sequences may take.
    """

    threads: int
    waiting_max: int
    waiting_bytes_max: int
    ageing_s: float
    timeout_s: float
    sequence_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingPolicy:
    """What one replica's scheduler goes by, times in seconds.

    Attributes:
        slots: Executions at the same time, at least 1.
        waiting_max: Calls that may wait beside one for each free slot.
        waiting_bytes_max: Payload bytes that waiting calls may hold, unless there is only one.
        batch_rows: Rows that calls may have together in one execution; 1 means that none are put together.
        rows_max: Rows that one call may have; 0 means no bound.
        delay_s: How long a call may wait for company while a slot is free.
        preferred: Numbers of rows at which a batch that waits leaves at once, rising.
        ageing_s: Waiting time that is worth one priority.
        queue_timeout_s: How long a call may wait at all; 0 means until its deadline.
        priority_waiting_max: Calls that may wait, by priority; one that is not in it has no bound of its own.
        priority_timeout_s: Like `queue_timeout_s`, by priority.
        timeout_s: How long one execution may take.
    """

    slots: int = 1
    waiting_max: int
    waiting_bytes_max: int
    batch_rows: int = 1
    rows_max: int = 0
    delay_s: float = 0.0
    preferred: tuple[int, ...] = ()
    ageing_s: float = 1.0
    queue_timeout_s: float = 0.0
    priority_waiting_max: Mapping[int, int] = field(default_factory=dict[int, int])
    priority_timeout_s: Mapping[int, float] = field(default_factory=dict[int, float])
    timeout_s: float = 60.0

    @property
    def sized(self) -> bool:
        """Whether the manifest knows better than a fit how large batches should be."""
        return bool(self.preferred) or self.delay_s > 0

    def waits_max_s(self, priority: int) -> float:
        """How long a call of a priority may wait; 0 means until its deadline."""
        return self.priority_timeout_s.get(priority, self.queue_timeout_s)


def policy_of(manifest: Manifest, limits: ExecutionLimits) -> SchedulingPolicy:
    """What a model's manifest asks for, bounded by the runner."""
    execution = manifest.execution
    batching = execution.batching
    queue = execution.queue
    return SchedulingPolicy(
        slots=min(max(1, execution.instances), _INSTANCES_MAX),
        waiting_max=queue.calls_max or limits.waiting_max,
        waiting_bytes_max=queue.bytes_max or limits.waiting_bytes_max,
        batch_rows=(batching.max_batch_size or BATCH_ROWS_DEFAULT) if manifest.batched else 1,
        rows_max=batching.max_batch_size if manifest.batched else 0,
        delay_s=batching.max_queue_delay.ToTimedelta().total_seconds(),
        preferred=tuple(batching.preferred_batch_sizes),
        ageing_s=limits.ageing_s,
        queue_timeout_s=queue.timeout.ToTimedelta().total_seconds(),
        priority_waiting_max={own.priority: own.calls_max for own in queue.priorities if own.calls_max},
        priority_timeout_s={
            own.priority: own.timeout.ToTimedelta().total_seconds()
            for own in queue.priorities
            if own.HasField("timeout")
        },
        timeout_s=execution.timeout.ToTimedelta().total_seconds() or limits.timeout_s,
    )


def threads_of(manifest: Manifest, policy: SchedulingPolicy, limits: ExecutionLimits) -> int:
    """Processor threads of one execution."""
    return min(manifest.execution.threads or max(1, limits.threads // policy.slots), limits.threads)
