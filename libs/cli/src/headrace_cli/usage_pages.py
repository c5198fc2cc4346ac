"""The ledger, what happened to runners, and the audit log, for people: tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from headrace_cli.presentation import enum_text, size_text, table, time_text, words

if TYPE_CHECKING:
    from rich.table import Table

    from headrace_client.contracts.headrace.quota.v1 import audit_pb2, usage_pb2


def request_page(rows: Iterable[usage_pb2.RequestRecord]) -> Table:
    """Calls, a line each."""
    shown = table(
        "admitted (UTC)", "model", "status", ">total ms", ">in", ">out", ">tokens", ">device ms", ">calls", "request"
    )
    for row in rows:
        status = enum_text(row, "status")
        latency: Any = row.total_latency
        shown.add_row(
            time_text(row, "admit_time"),
            words(f"{row.model}:{row.version}" if row.version else row.model, "name"),
            words(f"{status} {row.error_reason}".rstrip(), "good" if status == "ok" else "bad"),
            f"{latency.seconds * 1e3 + latency.nanos / 1e6:,.1f}",
            size_text(row.input_bytes),
            size_text(row.output_bytes),
            f"{row.prompt_tokens + row.completion_tokens:,}",
            f"{row.device_ms:,.1f}",
            f"{row.calls:,}",
            words(row.request_id, "quiet"),
        )
    return shown


def sum_page(sums: Iterable[usage_pb2.UsageSum]) -> Table:
    """What models were used, a line for each span."""
    shown = table(
        "from (UTC)", "model", ">calls", ">failed", ">in", ">out", ">tokens", ">device s", ">mean ms", ">max ms"
    )
    for span in sums:
        shown.add_row(
            time_text(span, "start_time"),
            words(f"{span.model}:{span.version}" if span.version else span.model, "name"),
            f"{span.calls:,}",
            f"{span.failed_calls:,}",
            size_text(span.input_bytes),
            size_text(span.output_bytes),
            f"{span.prompt_tokens + span.completion_tokens:,}",
            f"{span.device_ms / 1e3:,.2f}",
            f"{span.latency_ms_sum / span.calls:,.1f}" if span.calls else "-",
            f"{span.latency_ms_max:,.1f}",
        )
    return shown


def runner_event_page(events: Iterable[usage_pb2.RunnerEvent]) -> Table:
    """What happened to runners, a line each."""
    shown = table("time (UTC)", "runner", "event", "device", "gateway", "detail")
    for event in events:
        shown.add_row(
            time_text(event, "event_time"),
            words(event.runner_id, "name"),
            words(event.event, "bad" if event.event in ("ejected", "lost") else ""),
            words(event.device_type),
            words(event.gateway_id, "quiet"),
            words(event.detail),
        )
    return shown


def audit_page(entries: Iterable[audit_pb2.AuditEntry]) -> Table:
    """Administrative calls, a line each."""
    shown = table(">#", "time (UTC)", "actor", "method", "resource", "outcome", "request")
    for entry in entries:
        shown.add_row(
            str(entry.sequence),
            time_text(entry, "event_time"),
            words(entry.actor),
            words(entry.method.rpartition(".")[2], "name"),
            words(entry.resource, "value"),
            words(entry.outcome, "good" if entry.outcome == "OK" else "bad"),
            words(entry.request_json, "quiet"),
        )
    return shown
