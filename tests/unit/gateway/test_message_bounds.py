"""What a message holds is found out at a bounded cost, before it is parsed."""

from __future__ import annotations

import time

import pytest

from headrace_common import wire
from headrace_common.errors import ValidationError
from headrace_gateway.inference.message_bounds import Repeated, check_counts

FIELDS = {1: Repeated("calls"), 2: Repeated("cancels", packed=True)}
LIMIT = 1_024
LARGE = wire.encode_len_field(1, bytes(70_000))
EMPTY_GROUP = b"\x4b\x4c"
TINY = b"\x48\x01"


def refusal(message: bytes) -> str | None:
    """The reason, with the field where it has one."""
    try:
        check_counts(message, FIELDS, LIMIT)
    except ValidationError as error:
        return f"{error.reason} {error.field}" if error.field else error.reason
    return None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (LARGE, None),
        (LARGE + b"\x0a\x00" * (LIMIT - 1) + b"\x10\x01" * LIMIT + TINY * 64, None),
        (LARGE + b"\x0a\x00" * LIMIT, "FIELD_TOO_LONG calls"),
        (b"\x0a\x00" * 10_000_000, "FIELD_TOO_LONG calls"),
        (LARGE + b"\x10\x01" * (LIMIT + 1), "FIELD_TOO_LONG cancels"),
        (LARGE + wire.encode_len_field(2, bytes(10 * LIMIT + 10)), "FIELD_TOO_LONG cancels"),
        (LARGE + TINY * 65, "REQUEST_MALFORMED"),
        (LARGE + b"\x0a\xff", "REQUEST_MALFORMED"),
        (EMPTY_GROUP * 10_000_000, "REQUEST_MALFORMED"),
        (b"\x4b" + TINY * 10_000_000 + b"\x4c", "REQUEST_MALFORMED"),
    ],
    ids=[
        "large calls",
        "as many as there may be",
        "one call too many",
        "ten million calls",
        "one cancel too many",
        "packed cancels",
        "fields that nobody knows",
        "cut off",
        "ten million groups",
        "ten million fields in a group",
    ],
)
def test_large_messages_are_counted_and_refused_early(message: bytes, expected: str | None) -> None:
    before = time.thread_time()
    assert refusal(message) == expected
    assert time.thread_time() - before < 0.5


def test_small_messages_are_left_to_whoever_parses_them() -> None:
    assert refusal(b"\x0a\x00" * 30_000) is None
