"""Between the contract's messages and the domain's words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from headrace.quota.v1 import tenants_pb2 as pb
from headrace_common.errors import ValidationError
from headrace_quota.api_keys import ApiKey, Role
from headrace_quota.messages import api_key_message, instant_from, roles_from, timestamp

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_every_role_of_the_contract_is_known_but_unspecified() -> None:
    numbers = [number for number in pb.Role.values() if number != pb.ROLE_UNSPECIFIED]
    assert set(roles_from(numbers)) == set(Role)


@pytest.mark.parametrize("number", [0, 5, 99, -1, 2**31 - 1])
def test_unspecified_and_unknown_roles_are_refused_with_their_place(number: int) -> None:
    with pytest.raises(ValidationError) as refused:
        roles_from([pb.ROLE_USER, number])
    assert refused.value.field == "roles[1]"


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_instants_survive_the_wire(instant: datetime) -> None:
    assert instant_from(timestamp(instant), field="expire_time") == instant


@pytest.mark.parametrize(
    "message",
    [Timestamp(seconds=2**62), Timestamp(seconds=-(2**62)), Timestamp(nanos=-1), Timestamp(nanos=2**31 - 1)],
)
def test_impossible_timestamps_are_refused_with_the_field_named(message: Timestamp) -> None:
    with pytest.raises(ValidationError) as refused:
        instant_from(message, field="expire_time")
    assert refused.value.field == "expire_time"


def test_shown_key_has_its_prefix_and_not_its_digest() -> None:
    key = ApiKey(
        id="0" * 32,
        tenant_id="acme",
        display_name="",
        prefix="hr_abcdefgh",
        sha256=b"\xee" * 32,
        roles=(Role.USER,),
        create_time=NOW,
        expire_time=None,
        revoke_time=None,
    )
    shown = api_key_message(key)
    assert shown.prefix == "hr_abcdefgh"
    assert b"\xee" * 4 not in shown.SerializeToString()
    assert not shown.HasField("expire_time")
    assert not shown.HasField("revoke_time")
