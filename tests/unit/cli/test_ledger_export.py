"""Times as people type them, and rows of the ledger in files."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from headrace_cli.ledger_files import COLUMNS, LedgerFormat, check_format, format_of, write_rows
from headrace_cli.moments import moment_of
from headrace_client.contracts.headrace.quota.v1 import usage_pb2 as pb

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(number: int) -> pb.RequestRecord:
    made = pb.RequestRecord(
        id=f"id-{number}",
        tenant_id="acme",
        request_id='with "quotes", and a comma',
        status=pb.REQUEST_STATUS_CANCELLED,
        calls=2**53 + 1,
        device_ms=0.1,
    )
    made.admit_time.FromMicroseconds(1_772_366_400_000_001 + number)
    made.total_latency.FromMicroseconds(1_500)
    return made


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", datetime(2026, 3, 1, 10, 30, tzinfo=UTC)),
        ("24h", datetime(2026, 2, 28, 12, tzinfo=UTC)),
        ("7d", datetime(2026, 2, 22, 12, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T12:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_date_a_time_or_how_long_ago(text: str, moment: datetime) -> None:
    assert moment_of(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "7", "7w", "-7d", "999999d", "2026-13-01", "0001-01-01T00:00+14:00"])
def test_what_is_no_moment_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        moment_of(text, now=NOW)


def test_csv_has_every_column_and_value(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    assert write_rows((row(number) for number in range(3)), path, LedgerFormat.CSV) == 3
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == list(COLUMNS)
    assert [line["id"] for line in found] == ["id-0", "id-1", "id-2"]
    first = found[0]
    assert (first["status"], first["request_id"]) == ("cancelled", 'with "quotes", and a comma')
    assert (first["calls"], first["device_ms"], first["total_ms"]) == (str(2**53 + 1), "0.1", "1.5")
    assert (first["admit_time"], first["end_time"]) == ("2026-03-01T12:00:00.000001+00:00", "")
    # Every field of a row is in the file, latencies by their milliseconds.
    latencies = {"total_latency", "queue_latency", "execution_latency"}
    assert {field.name for field in pb.RequestRecord.DESCRIPTOR.fields} - latencies <= set(COLUMNS)


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    path.write_text("before")

    def breaking() -> Iterator[pb.RequestRecord]:
        yield row(0)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        write_rows(breaking(), path, LedgerFormat.CSV)
    assert [found.read_text() for found in tmp_path.iterdir()] == ["before"]


def test_the_name_of_the_file_tells_the_format_unless_it_is_chosen() -> None:
    assert format_of(Path("a.parquet"), None) is LedgerFormat.PARQUET
    assert format_of(Path("a.parquet"), LedgerFormat.CSV) is LedgerFormat.CSV
    assert format_of(Path("a.txt"), None) is LedgerFormat.CSV


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="it is installed")
def test_parquet_without_its_package_is_refused_with_what_to_install() -> None:
    with pytest.raises(typer.BadParameter, match=r"pip install 'headrace\[parquet\]'"):
        check_format(LedgerFormat.PARQUET)


def test_parquet_has_every_column_with_its_type(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "ledger.parquet"
    assert write_rows((row(number) for number in range(25_000)), path, LedgerFormat.PARQUET) == 25_000
    found = parquet.read_table(path)
    assert found.column_names == list(COLUMNS)
    first = found.slice(0, 1).to_pylist()[0]
    assert (first["id"], first["calls"], first["total_ms"], first["end_time"]) == ("id-0", 2**53 + 1, 1.5, None)
    assert first["admit_time"] == datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
    assert found.column("id").to_pylist() == [f"id-{number}" for number in range(25_000)]
