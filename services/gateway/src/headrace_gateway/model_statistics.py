"""What this gateway counted of a version's calls, as Triton's `ModelStatistics`."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.version_meters import VersionMeters
from inference import model_statistics_pb2 as statistics

_MEMORY_KINDS = {"cpu": "CPU", "cuda": "GPU"}


def statistics_of(
    version: CatalogVersion, meters: VersionMeters, *, answered_at_s: float, memory_bytes: Mapping[str, int]
) -> statistics.ModelStatistics:
    """The counters of a version since it was first called at this gateway.

    As in Triton, every stage counts the requests that succeeded, and a failed one only counts as such. Rows count for
    the gateway whose call led the batch.

    Args:
        version: Whose counters they are.
        meters: The counters.
        answered_at_s: Unix time of the last answer, 0 for none.
        memory_bytes: What loaded replicas take, by type of device.
    """
    count = meters.ok_count
    failed = list(meters.failures.values())
    found = statistics.ModelStatistics(
        name=version.model,
        version=version.version_text,
        last_inference=int(answered_at_s * 1e3),
        inference_count=meters.rows,
        execution_count=sum(batch.executions for batch in meters.batches.values()),
        inference_stats=statistics.InferStatistics(
            success=_seconds(count, meters.latency.sum_s + meters.parts_s),
            fail=_seconds(sum(times for times, _ in failed), sum(seconds for _, seconds in failed)),
            queue=_microseconds(count, meters.queue_us),
            compute_input=_microseconds(count, meters.input_us),
            compute_infer=_microseconds(count, meters.infer_us),
            compute_output=_microseconds(count, meters.output_us),
            cache_hit=statistics.StatisticDuration(),
            cache_miss=statistics.StatisticDuration(),
        ),
    )
    for rows, batch in sorted(meters.batches.items()):
        found.batch_stats.add(
            batch_size=rows,
            compute_input=_microseconds(batch.executions, batch.input_us),
            compute_infer=_microseconds(batch.executions, batch.infer_us),
            compute_output=_microseconds(batch.executions, batch.output_us),
        )
    for device_type, size in sorted(memory_bytes.items()):
        found.memory_usage.add(type=_MEMORY_KINDS.get(device_type, device_type.upper()), byte_size=size)
    return found


def _seconds(count: int, seconds: float) -> statistics.StatisticDuration:
    return statistics.StatisticDuration(count=count, ns=round(seconds * 1e9))


def _microseconds(count: int, microseconds: int) -> statistics.StatisticDuration:
    return statistics.StatisticDuration(count=count, ns=microseconds * 1_000)
