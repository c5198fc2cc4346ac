"""The access log's lines, which are put together by hand, against those that structlog writes."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog

from headrace_common.access_log import AccessLog
from headrace_common.logs import configure_logs

KEY = "hr_abcd1234_" + "s" * 40
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhY21lIn0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def record(log: AccessLog, **fields: Any) -> None:
    values: dict[str, Any] = {
        "method": "/inference.GRPCInferenceService/ModelInfer",
        "grpc_code": "OK",
        "reason": "",
        "duration_s": 0.0123456,
        "tenant_id": "acme",
        "key_id": "key-1",
        "request_id": "req/1:2._-",
        "request_bytes": 77,
        **fields,
    }
    log.record(**values)


class Counting(io.StringIO):
    """Counts writes."""

    writes = 0

    def write(self, text: str, /) -> int:
        self.writes += 1
        return super().write(text)


@pytest.mark.parametrize("fmt", ["json", "console"])
async def test_an_http_request_s_line_is_what_structlog_would_write(fmt: str) -> None:
    fields = {"method": "POST", "route": "/v1/infer", "status": 200, "request_bytes": 9, "response_bytes": 1}
    ours, theirs = io.StringIO(), io.StringIO()
    log = AccessLog(service="http", fmt=fmt, stream=ours)
    log.request(**fields, duration_s=0.0123456, request_id=f"id:{KEY}")  # pyright: ignore[reportArgumentType]
    log.flush()
    configure_logs(service="http", fmt=fmt, stream=theirs)
    structlog.stdlib.get_logger("x").info("request", **fields, duration_ms=12.346, request_id=f"id:{KEY}")
    lines = [stream.getvalue() for stream in (ours, theirs)]
    if fmt == "json":
        told, expected = map(json.loads, lines)
        assert {**told, "timestamp": ""} == {**expected, "timestamp": ""} and told["request_id"] == "id:hr_abcd1234_***"
    else:
        told, expected = (line.split(maxsplit=1)[1] for line in lines)
        assert told == expected and "hr_abcd1234_***" in told


@pytest.mark.parametrize("reason", ["", "MODEL_NOT_FOUND"])
@pytest.mark.parametrize("fmt", ["json", "console"])
async def test_a_line_is_what_structlog_would_write(reason: str, fmt: str) -> None:
    ours, theirs = io.StringIO(), io.StringIO()
    log = AccessLog(service="gateway", fmt=fmt, stream=ours)
    record(log, reason=reason)
    log.flush()
    configure_logs(service="gateway", fmt=fmt, stream=theirs)
    structlog.get_logger("rpc").info(
        "call",
        method="/inference.GRPCInferenceService/ModelInfer",
        grpc_code="OK",
        reason=reason or None,
        duration_ms=12.346,
        tenant_id="acme",
        key_id="key-1",
        request_id="req/1:2._-",
        bytes=77,
    )
    if fmt == "json":
        mine, expected = json.loads(ours.getvalue()), json.loads(theirs.getvalue())
        assert list(mine) == list(expected)
        ours_at, theirs_at = (datetime.fromisoformat(line.pop("timestamp")) for line in (mine, expected))
        assert mine == expected
    else:
        mine, expected = (stream.getvalue().split(" ", 1) for stream in (ours, theirs))
        ours_at, theirs_at = (datetime.fromisoformat(line[0]) for line in (mine, expected))
        assert mine[1] == expected[1]
    assert ours_at.tzinfo is not None
    assert abs((ours_at - theirs_at).total_seconds()) < 60


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize("secret", [KEY, TOKEN])
async def test_a_secret_in_a_request_id_is_masked(secret: str, fmt: str) -> None:
    stream = io.StringIO()
    log = AccessLog(service="gateway", fmt=fmt, stream=stream)
    record(log, request_id=secret)
    record(log, request_id=f"x:{secret}")
    log.flush()
    assert secret not in stream.getvalue()
    assert stream.getvalue().count("***") == 2


async def test_lines_gather_into_few_writes_and_none_is_kept_for_long() -> None:
    stream = Counting()
    log = AccessLog(service="gateway", fmt="json", stream=stream)
    for number in range(100):
        record(log, request_bytes=number)
    assert stream.writes == 0
    async with asyncio.timeout(30):
        while not stream.writes:
            await asyncio.sleep(0.01)
    assert [json.loads(line)["bytes"] for line in stream.getvalue().splitlines()] == list(range(100))
    assert stream.writes == 1
    record(log)
    async with asyncio.timeout(30):
        while stream.writes == 1:
            await asyncio.sleep(0.01)


async def test_lines_that_are_kept_are_bounded() -> None:
    stream = Counting()
    log = AccessLog(service="gateway", fmt="json", stream=stream)
    for _ in range(2_000):
        record(log)
    assert (stream.writes, len(stream.getvalue().splitlines())) == (3, 3 * 512)
    log.flush()
    log.flush()
    assert (stream.writes, len(stream.getvalue().splitlines())) == (4, 2_000)
