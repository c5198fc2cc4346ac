"""Rows of the ledger in files: CSV, or Parquet where the package for it is installed."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headrace_cli.presentation import enum_text

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from headrace_client.contracts.headrace.quota.v1 import usage_pb2

_GROUP_ROWS = 20_000
_TEXT, _NUMBER, _REAL, _TIME = "text", "number", "real", "time"
COLUMNS = {
    "id": _TEXT,
    "tenant_id": _TEXT,
    "subject": _TEXT,
    "request_id": _TEXT,
    "kind": _TEXT,
    "model": _TEXT,
    "version": _TEXT,
    "runner_id": _TEXT,
    "device_type": _TEXT,
    "status": _TEXT,
    "error_reason": _TEXT,
    "admit_time": _TIME,
    "end_time": _TIME,
    "total_ms": _REAL,
    "queue_ms": _REAL,
    "execution_ms": _REAL,
    "input_bytes": _NUMBER,
    "output_bytes": _NUMBER,
    "prompt_tokens": _NUMBER,
    "completion_tokens": _NUMBER,
    "device_ms": _REAL,
    "attempts": _NUMBER,
    "calls": _NUMBER,
}
"""The columns of every export and what is in them."""
_LATENCIES = {"total_ms": "total_latency", "queue_ms": "queue_latency", "execution_ms": "execution_latency"}


class LedgerFormat(StrEnum):
    """Formats by the names that people type."""

    CSV = "csv"
    PARQUET = "parquet"


def format_of(path: Path, chosen: LedgerFormat | None) -> LedgerFormat:
    """What was chosen, else what the file's name says, else CSV."""
    if chosen is not None:
        return chosen
    return LedgerFormat.PARQUET if path.suffix == ".parquet" else LedgerFormat.CSV


def check_format(kind: LedgerFormat) -> None:
    """Refuses a format that this installation can't write, before anything is fetched.

    Raises:
        typer.BadParameter: The package is missing.
    """
    if kind is LedgerFormat.PARQUET:
        try:
            import pyarrow.parquet  # pyright: ignore # noqa: F401 - an extra, and slow to load
        except ImportError:
            raise typer.BadParameter(
                "Parquet needs the package pyarrow: pip install 'headrace[parquet]', or take csv",
                param_hint="--format",
            ) from None


def write_rows(rows: Iterable[usage_pb2.RequestRecord], path: Path, kind: LedgerFormat) -> int:
    """Writes a file, which appears only whole; returns how many rows it has.

    Raises:
        OSError: The file can't be written.
    """
    with _appearing(path) as part:
        return _write_parquet(rows, part) if kind is LedgerFormat.PARQUET else _write_csv(rows, part)


def columns_of(row: usage_pb2.RequestRecord) -> dict[str, Any]:
    """A row's values: times with their zone, latencies in milliseconds, the status as people say it."""
    return {name: _value(row, name, kind) for name, kind in COLUMNS.items()}


def _value(row: usage_pb2.RequestRecord, name: str, kind: str) -> Any:
    if name == "status":
        return enum_text(row, name)
    if kind is _TIME:
        return _moment(row, name)
    if name in _LATENCIES:
        latency: Any = getattr(row, _LATENCIES[name])
        return latency.seconds * 1e3 + latency.nanos / 1e6
    return getattr(row, name)


def _moment(row: Message, name: str) -> datetime | None:
    return getattr(row, name).ToDatetime(tzinfo=UTC) if row.HasField(name) else None


def _write_csv(rows: Iterable[usage_pb2.RequestRecord], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([_csv_text(value) for value in columns_of(row).values()])
            count += 1
    return count


def _csv_text(value: Any) -> Any:
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value


def _write_parquet(rows: Iterable[usage_pb2.RequestRecord], path: Path) -> int:
    import pyarrow  # pyright: ignore
    import pyarrow.parquet  # pyright: ignore

    arrow: Any = pyarrow
    types = {_TEXT: arrow.string(), _NUMBER: arrow.int64(), _REAL: arrow.float64(), _TIME: arrow.timestamp("us", "UTC")}
    schema = arrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    left, count = iter(rows), 0
    with arrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := [columns_of(row) for row in islice(left, _GROUP_ROWS)]:
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count


@contextmanager
def _appearing(path: Path) -> Generator[Path]:
    """A file beside the wanted one, which takes its name at the end, or goes."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
        part.chmod(0o600)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
