"""Logs: one form for all loggers, the call's ids on every line, and no secret on any."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from headrace_common.logs import bind_call, configure_logs, redact_text
from headrace_common.logs import redact as redact_event

KEY = "hr_abcd1234_" + "Q" * 32
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_service_level_time_and_the_calls_ids() -> None:
    stream = io.StringIO()
    configure_logs(service="mill", stream=stream)
    bind_call(request_id="r1", tenant_id="acme", trace_id="t1")
    structlog.stdlib.get_logger("x").info("turned", wheels=3)
    (line,) = lines(stream)
    assert line["event"] == "turned"
    assert (line["service"], line["level"], line["wheels"]) == ("mill", "info", 3)
    assert (line["request_id"], line["tenant_id"], line["trace_id"]) == ("r1", "acme", "t1")
    assert str(line["timestamp"]).endswith("Z")


def test_the_standard_librarys_loggers_come_out_in_the_same_form() -> None:
    stream = io.StringIO()
    configure_logs(service="mill", stream=stream)
    logging.getLogger("some.library").warning("connecting to postgresql://u:%s@h/d", "pw")
    (line,) = lines(stream)
    assert line["event"] == "connecting to postgresql://u:***@h/d"
    assert (line["level"], line["logger"], line["service"]) == ("warning", "some.library", "mill")


def test_lines_below_the_level_are_dropped() -> None:
    stream = io.StringIO()
    configure_logs(service="mill", level="warning", stream=stream)
    structlog.stdlib.get_logger("x").info("quiet")
    logging.getLogger("x").info("quiet")
    assert stream.getvalue() == ""


def test_the_console_form_is_plain_text_without_escapes_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    configure_logs(service="mill", fmt="console", stream=stream)
    structlog.stdlib.get_logger("x").info("turned", wheels=3)
    assert "turned" in stream.getvalue()
    assert "wheels=3" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_secrets_never_come_out(fmt: str) -> None:
    stream = io.StringIO()
    configure_logs(service="mill", fmt=fmt, stream=stream)
    log = structlog.stdlib.get_logger("x")
    event = f"key {KEY}"
    log.info(event, api_key="s3cret-a", nested={"authorization": "s3cret-b", "list": [KEY]})
    log.info("x", **{"x-headrace-principal": "s3cret-c", "password": "s3cret-d", "join_token": "s3cret-e"})
    log.info("x", header=f"Bearer {JWT}", url="redis://:s3cret-f@host:1/0", note=f"token={KEY}")
    try:
        raise ValueError(f"wrong key {KEY} in postgresql://me:s3cret-g@host/db")
    except ValueError:
        log.exception("failed")
    logging.getLogger("x").error("authorization: Bearer %s", JWT)
    text = stream.getvalue()
    assert "s3cret" not in text
    assert "QQQQ" not in text
    assert "c2lnbmF0dXJl" not in text
    assert "hr_abcd1234_***" in text


def test_names_that_only_look_secret_stay_readable() -> None:
    event = {"key_id": "k1", "token_count": 7, "tokens": 3, "key_prefix": "abcd", "event": "x", "monkey": "y"}
    assert redact_event(None, "info", dict(event)) == event


def test_text_without_secrets_is_left_alone() -> None:
    text = "model 'magika' v1 loaded in 0.3 s from http://127.0.0.1:9000/x"
    assert redact_text(text) == text
