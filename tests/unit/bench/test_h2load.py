"""What h2load says is read rightly, and failures that it doesn't see are found."""

from __future__ import annotations

import pytest

from headrace_bench.h2load import data_bytes, grpc_frame, summary

REPORT = """\
starting benchmark...
finished in 9.45ms, 423.42 req/s, 74.42KB/s
requests: 4 total, 4 started, 4 done, 4 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 720B (720) total, 180B (180) headers (space savings 67.86%), 1.05KB (1080) data
                     min         max         mean         sd        +/- sd
time for request:     1.21ms      2.31ms      1.61ms       412us    75.00%
"""
LOG = "1000000\t200\t1000\n1000500\t200\t3000\n1002000\t200\t2000\n1003000\t200\t7000\n"
BODY_BYTES = 270


def test_frame_is_not_compressed_and_has_its_length() -> None:
    assert grpc_frame(b"abc") == b"\x00\x00\x00\x00\x03abc"


def test_bodies_are_counted_without_the_headers() -> None:
    assert data_bytes(REPORT) == 1080


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(ValueError, match="connection refused"):
        data_bytes("connection refused")


def test_time_runs_from_the_first_request_to_the_last_answer() -> None:
    load = summary(log=LOG, report=REPORT, count=4, body_bytes=BODY_BYTES, cpu_s=0.5)
    assert (load.done, load.failed, load.cpu_s) == (4, {}, 0.5)
    assert load.wall_s == pytest.approx(0.01)
    assert (load.p50_ms, load.p99_ms) == pytest.approx((2.0, 7.0))


def test_answers_without_their_body_fail_the_load() -> None:
    load = summary(log=LOG, report=REPORT, count=4, body_bytes=BODY_BYTES + 90, cpu_s=0.5)
    assert load.failed == {"1080 bytes of answers instead of 1440": 1}


def test_answers_over_http_may_have_any_length() -> None:
    load = summary(log=LOG, report=REPORT, count=4, body_bytes=None, cpu_s=0.5)
    assert (load.done, load.failed) == (4, {})


def test_requests_without_an_answer_fail_the_load() -> None:
    log = LOG.replace("1003000\t200", "1003000\t-1")
    assert summary(log=log, report=REPORT, count=5, body_bytes=360, cpu_s=0.5).failed == {
        "not answered, or not with 200": 2
    }


def test_load_that_nobody_answered_is_a_failed_one() -> None:
    load = summary(log="", report=REPORT.replace("1080", "0"), count=4, body_bytes=6, cpu_s=0.1)
    assert (load.done, load.failed) == (0, {"not answered, or not with 200": 4})
