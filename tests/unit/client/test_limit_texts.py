"""Limits as people write them."""

from __future__ import annotations

import pytest

from headrace_client.contracts.headrace.quota.v1 import quotas_pb2 as pb
from headrace_client.errors import ValidationError
from headrace_client.limit_texts import limit_of, limit_text


@pytest.mark.parametrize(
    "text",
    [
        "requests=1000/day",
        "tokens=1/month",
        "input_bytes=5/hour",
        "device_ms=5/hour",
        "concurrency=8",
        "m.1_x:concurrency=8",
        "requests=10/s",
        "requests=10/10s,burst=40",
        "requests=10/1m,sliding",
        "magika:tokens=500/1h",
        "tokens=5/1500ms",
    ],
)
def test_text_and_limit_say_the_same(text: str) -> None:
    assert limit_text(limit_of(text)) == text


def test_parts_of_a_text_are_the_limits_fields() -> None:
    limit = limit_of(" magika:tokens=1_000/2m,burst=50 ")
    assert (limit.model, limit.resource, limit.window) == ("magika", pb.RESOURCE_TOKENS, pb.WINDOW_RATE)
    assert (limit.amount, limit.burst, limit.period.seconds) == (1000, 50, 120)
    assert limit_of("requests=1/h").window == pb.WINDOW_RATE
    assert limit_of("requests=1/hour").window == pb.WINDOW_HOUR


@pytest.mark.parametrize(
    "text",
    [
        "",
        "requests",
        "requests=",
        "requests=-5/day",
        "requests=1.5/day",
        "requests=1e3/day",
        "requests=_/day",
        "requests=ten/day",
        "requests=9223372036854775808/day",
        "requests=" + "9" * 5000 + "/day",
        "requests=5",
        "requests=5/week",
        "requests=5/",
        "requests=5/day/day",
        "seats=5/day",
        "Requests=5/day",
        "a:b:requests=5/day",
        ":requests=5/day",
        "requests=5/s,burst",
        "requests=5/s,burst=-1",
        "requests=5/s,speed=1",
        "requests=5/s,",
        "requests=5/99999999999999999999999999999999h",
        "requests=5/day\nx",
    ],
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        limit_of(text)
    assert refused.value.field == "limits"
