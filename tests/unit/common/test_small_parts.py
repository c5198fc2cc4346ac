"""Page tokens, request ids, addresses, the admission gate, the ready file, the clock."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from headrace_common import catalogue
from headrace_common.addresses import format_address, is_loopback, parse_address
from headrace_common.allocator import FreedMemory
from headrace_common.clock import SystemClock
from headrace_common.errors import ConfigError, RouteUnavailable, ValidationError
from headrace_common.page_token import Position, decode_page_token, encode_page_token
from headrace_common.ready_file import write_ready_file
from headrace_common.request_id import accept_request_id, new_request_id, trace_id_of
from headrace_common.reused_message import ReusedMessage
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.testing import FakeClock

positions = st.lists(st.one_of(st.integers(), st.text(max_size=30)), max_size=4).map(tuple)
queries = st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=8), st.integers(), st.booleans()), max_size=3)


@given(positions, queries)
def test_a_page_token_gives_its_position_back_to_its_own_query(
    position: Position, query: dict[str, str | int | bool]
) -> None:
    token = encode_page_token(query, position)
    assert decode_page_token(token, query) == position
    assert token.replace("-", "").replace("_", "").isalnum()
    with pytest.raises(ValidationError):
        decode_page_token(token, {**query, "tenant": "another", "n": 1})


@given(st.text(min_size=1, max_size=80))
def test_garbage_is_no_page_token(garbage: str) -> None:
    with pytest.raises(ValidationError) as caught:
        decode_page_token(garbage, {})
    assert caught.value.entry is catalogue.PAGE_TOKEN_INVALID
    assert caught.value.field == "page_token"


@given(st.data())
def test_a_damaged_page_token_is_refused(data: st.DataObject) -> None:
    token = encode_page_token({"tenant": "a"}, ("name", 7))
    index = data.draw(st.integers(0, len(token) - 2))
    other = data.draw(st.sampled_from("ABCxyz019-_"))
    damaged = token[:index] + other + token[index + 1 :]
    if damaged != token:
        with pytest.raises(ValidationError):
            decode_page_token(damaged, {"tenant": "a"})


def test_no_page_token_is_the_first_page_and_a_huge_one_is_refused() -> None:
    assert decode_page_token("", {}) is None
    with pytest.raises(ValidationError):
        decode_page_token("A" * 1_000_000, {})


@pytest.mark.parametrize("value", ["req-1", "a" * 128, "A.b:c/d_e-f"])
def test_a_plain_request_id_is_kept(value: str) -> None:
    assert accept_request_id(value) == value


@pytest.mark.parametrize("value", [None, "", "a b", "a\nb", "-x", "a" * 129, b"bytes", "é", '"'])
def test_any_other_request_id_is_replaced(value: str | bytes | None) -> None:
    assert accept_request_id(value) != value
    assert len(accept_request_id(value)) == len(new_request_id()) == 32


def test_only_a_valid_traceparent_has_a_trace_id() -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    assert trace_id_of(f"00-{trace}-{span}-01") == trace
    assert trace_id_of(f"cc-{trace}-{span}-01-what-comes-later") == trace
    for wrong in (None, b"x", "", f"ff-{trace}-{span}-01", f"00-{'0' * 32}-{span}-01", f"00-{trace}-{'0' * 16}-01"):
        assert trace_id_of(wrong) is None
    assert trace_id_of(f"00-{trace.upper()}-{span}-01") is None


@pytest.mark.parametrize(
    ("address", "parts", "loopback"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0), True),
        ("localhost:80", ("localhost", 80), True),
        ("[::1]:8081", ("::1", 8081), True),
        ("0.0.0.0:65535", ("0.0.0.0", 65535), False),
        ("gateway.mesh:1", ("gateway.mesh", 1), False),
        ("[::]:1", ("::", 1), False),
    ],
)
def test_addresses(address: str, parts: tuple[str, int], loopback: bool) -> None:
    assert parse_address(address) == parts
    assert format_address(*parts) == address
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("address", ["", ":80", "host", "host:", "host:x", "host:-1", "host:65536", "host:٣"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(address)


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=60))
def test_the_gate_never_lets_more_in_than_its_limit(limit: int, steps: list[bool]) -> None:
    gate = AdmissionGate(limit=limit)
    inside = 0
    for entering in steps:
        if not entering:
            if inside:
                gate.leave()
                inside -= 1
        elif inside == limit:
            with pytest.raises(RouteUnavailable) as caught:
                gate.enter()
            assert caught.value.entry is catalogue.SERVER_OVERLOADED
        else:
            gate.enter()
            inside += 1
        assert gate.taken == inside


def test_the_ready_file_holds_the_bound_addresses(tmp_path: Path) -> None:
    path = tmp_path / "run" / "quota.json"
    write_ready_file(path, name="quota", grpc="127.0.0.1:1", metrics="http://127.0.0.1:2/metrics")
    assert json.loads(path.read_text()) == {
        "name": "quota",
        "pid": os.getpid(),
        "grpc": "127.0.0.1:1",
        "metrics": "http://127.0.0.1:2/metrics",
    }
    assert len(list(path.parent.iterdir())) == 1
    write_ready_file(None, name="quota")


def test_clocks_agree_on_their_direction() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.now().tzinfo is not None
    fake = FakeClock()
    before = fake.now()
    fake.advance(1.5)
    assert (fake.now() - before).total_seconds() == 1.5
    with pytest.raises(ValueError, match="back"):
        fake.advance(-1)


def test_a_message_for_much_content_is_given_away_and_not_kept() -> None:
    reused = ReusedMessage(StringValue)
    usual = reused.take(10)
    assert reused.take(10) is usual
    assert reused.take(2 << 20) is not usual
    assert reused.take(10) is usual


def test_freed_memory_is_given_back_once_after_the_last_huge_message() -> None:
    seen = 0
    memory = FreedMemory(seen=lambda: seen)
    assert not memory.due(), "nothing huge has come"
    seen = 1
    assert not memory.due(), "it came since the last look"
    seen = 2
    assert not memory.due()
    assert memory.due()
    assert not memory.due(), "once"
