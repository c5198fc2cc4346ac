"""What is counted of one model version's calls: plain numbers, because metric objects cost microseconds per call."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace_common.latency_counts import LatencyCounts
from headrace_gateway.inference.generation.generation_meters import GenerationMeters
from headrace_gateway.mesh.session_calls import Answer


@dataclass(slots=True)
class BatchMeters:
    """Executions of one batch size, times in microseconds."""

    executions: int = 0
    input_us: int = 0
    infer_us: int = 0
    output_us: int = 0


@dataclass(slots=True)
class VersionMeters:
    """Counts since the version was first called at this gateway. Written on the event loop only.

    Attributes:
        labels: Tenant, model, version.
        in_flight: Calls that the gateway has accepted and not yet answered.
        failures: Calls that failed and their seconds, by reason of the error catalogue.
        queue_us: Microseconds in the runner's queue, summed over answered calls; likewise `input_us` (reading tensors),
            `infer_us` (the backend) and `output_us` (writing tensors).
        rows: Rows that were inferred; `batches` counts the executions by how many rows they had.
        answered_at: Reading of the monotonic clock at the last answer.
        latency: Time from arrival to answer of answered calls, of an answer in parts to the first one; from there to
            the end it took `parts_s`, summed.
        generation: Of calls that are answered in parts.
    """

    labels: tuple[str, str, str]
    in_flight: int = 0
    ok_count: int = 0
    latency: LatencyCounts = field(default_factory=LatencyCounts)
    failures: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    queue_us: int = 0
    input_us: int = 0
    infer_us: int = 0
    output_us: int = 0
    rows: int = 0
    batches: dict[int, BatchMeters] = field(default_factory=dict[int, BatchMeters])
    answered_at: float | None = None
    parts_s: float = 0.0
    generation: GenerationMeters = field(default_factory=GenerationMeters)

    def answered(self, answer: Answer, arrived_at: float, now: float, *, first_at: float = 0.0) -> None:
        """Counts an answered call; `first_at` is when the first part came of an answer in parts."""
        self.ok_count += 1
        self.latency.observe((first_at or now) - arrived_at)
        self.answered_at = now
        infer_us = answer.compute_us - answer.input_us - answer.output_us
        self.queue_us += answer.queue_us
        self.input_us += answer.input_us
        self.infer_us += infer_us
        self.output_us += answer.output_us
        rows = answer.batch_rows if answer.leads_batch else 0
        if first_at:
            # As in Triton one answer is one inference, however many parts it has and whoever shared its execution.
            self.parts_s += now - first_at
            rows = 1
        if rows or answer.leads_batch:
            self.rows += rows
            batch = self.batches.get(rows)
            if batch is None:
                batch = self.batches[rows] = BatchMeters()
            batch.executions += 1
            batch.input_us += answer.input_us
            batch.infer_us += infer_us
            batch.output_us += answer.output_us

    def failed(self, reason: str, took_s: float) -> None:
        """Counts a call that ended with this reason of the error catalogue."""
        count, seconds = self.failures.get(reason, (0, 0.0))
        self.failures[reason] = (count + 1, seconds + took_s)
