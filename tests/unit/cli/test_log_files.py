"""Logs of bounded size."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_cli.mesh.log_files import keep_bounded, last_lines, set_aside


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "gateway-0.log"
    log.write_text("line\n")
    assert not keep_bounded(log, largest_bytes=100)
    assert [entry.name for entry in tmp_path.iterdir()] == ["gateway-0.log"]


def test_a_large_log_moves_aside_and_its_writer_goes_on_from_the_start(tmp_path: Path) -> None:
    log = tmp_path / "gateway-0.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 100)
        assert keep_bounded(log, largest_bytes=100)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert log.with_name("gateway-0.log.1").read_bytes() == b"old\n" * 100


def test_a_missing_log_is_no_failure(tmp_path: Path) -> None:
    assert not keep_bounded(tmp_path / "none.log")
    assert last_lines(tmp_path / "none.log") == []


def test_the_last_lines_skip_empty_ones(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n\n" for number in range(100)))
    assert last_lines(log, count=2) == ["line 98", "line 99"]


def test_a_new_run_begins_with_empty_logs_and_keeps_those_before(tmp_path: Path) -> None:
    for run in ("first", "second"):
        set_aside(tmp_path)
        (tmp_path / "quota.log").write_text(run)
    assert (tmp_path / "quota.log").read_text() == "second"
    assert (tmp_path / "quota.log.1").read_text() == "first"


def test_a_log_that_can_not_be_moved_aside_stays_whole(tmp_path: Path) -> None:
    log = tmp_path / "gateway-0.log"
    log.write_bytes(b"old\n" * 100)
    log.with_name("gateway-0.log.1").mkdir()
    with pytest.raises(OSError, match="directory"):
        keep_bounded(log, largest_bytes=100)
    assert log.read_bytes() == b"old\n" * 100
