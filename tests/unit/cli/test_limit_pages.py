"""Limits and how they stand, as people see them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from headrace_cli.limit_pages import limit_page, name_text, usage_line, usage_page
from headrace_cli.terminal import output
from headrace_client.contracts.headrace.quota.v1 import quotas_pb2 as pb
from headrace_client.limit_texts import limit_of

NOW = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


def printed(page: Any) -> str:
    console = output()
    # Wide enough for nothing to be wrapped.
    console.width = 200
    with console.capture() as captured:
        console.print(page)
    return captured.get()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("requests=5/day", "requests/day"),
        ("m:tokens=5/1500ms", "m:tokens/1.5s"),
        ("requests=5/1m,sliding", "requests/60s sliding"),
        ("concurrency=5", "concurrency"),
    ],
)
def test_name_says_what_is_counted_over_what_time(text: str, name: str) -> None:
    assert name_text(limit_of(text)) == name


def test_bar_grows_with_use_and_never_passes_its_end() -> None:
    def bar(used: int, held: int = 0) -> tuple[int, int]:
        usage = pb.LimitUsage(limit=limit_of("requests=100/day"), used=used, held=held)
        page = printed(usage_page([("", usage)], now=NOW))
        return page.count("█"), page.count("▒")

    assert [bar(0), bar(50), bar(100), bar(10**15)] == [(0, 0), (10, 0), (20, 0), (20, 0)]
    assert [bar(50, 25), bar(50, 500)] == [(10, 5), (10, 10)]


def test_page_tells_amounts_and_when_the_window_starts_anew() -> None:
    usage = pb.LimitUsage(limit=limit_of("requests=2000/month"), used=1500, held=20)
    usage.reset_time.FromDatetime(datetime(2026, 4, 1, tzinfo=UTC))
    page = printed(usage_page([("acme", usage)], now=NOW))
    assert all(part in page for part in ("acme", "1,500", "2,000", "20", "75%", "in 30d 14:00:00"))
    assert usage_line("acme", usage) == "acme requests/month used=1500 held=20 of=2000"


def test_use_that_nobody_can_tell_is_a_question_mark() -> None:
    usage = pb.LimitUsage(limit=limit_of("concurrency=5"))
    assert usage_line("", usage) == "concurrency used=? held=0 of=5"
    page = printed(usage_page([("", usage)], now=NOW))
    assert "?" in page and "%" not in page


def test_limits_say_where_they_come_from() -> None:
    own, planned = limit_of("requests=5/day"), limit_of("m:tokens=7/s,burst=9")
    lines = printed(limit_page([own, planned], [own], "gold")).splitlines()
    assert [line.split()[-2:] for line in lines if "day" in line or "tokens" in line] == [
        ["day", "own"],
        ["plan", "gold"],
    ]
