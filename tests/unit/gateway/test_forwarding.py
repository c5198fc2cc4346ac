"""What goes along with a call that is passed on: less time than the client has, and a principal signed for it."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from headrace_common.errors import DeadlineError
from headrace_common.principal import Principal, PrincipalSigner, PrincipalVerifier, generate_key_files
from headrace_common.testing import FakeClock
from headrace_gateway.deadlines import Deadlines
from headrace_gateway.principal_tokens import PrincipalTokens
from headrace_gateway.upstream import Upstream, forwarded

DEADLINES = Deadlines(call_s=30, transfer_s=3600, margin_s=0.02)


@given(st.floats(min_value=1e-6, max_value=1e4))
def test_upstream_gets_less_than_the_client_has_and_most_of_it(remaining_s: float) -> None:
    forwarded_s = DEADLINES.forwarded_s(remaining_s, streaming=False)
    assert 0.899 * remaining_s <= forwarded_s < remaining_s
    assert remaining_s - forwarded_s <= 1.001 * DEADLINES.margin_s


@pytest.mark.parametrize(("streaming", "expected_s"), [(False, 30), (True, 3600)])
def test_call_without_a_deadline_gets_the_cap_of_its_kind(streaming: bool, expected_s: float) -> None:
    assert DEADLINES.forwarded_s(None, streaming=streaming) == expected_s


@pytest.mark.parametrize("remaining_s", [0.0, -1.0])
def test_deadline_that_is_over_is_refused(remaining_s: float) -> None:
    with pytest.raises(DeadlineError) as caught:
        DEADLINES.forwarded_s(remaining_s, streaming=False)
    assert caught.value.reason == "DEADLINE_ALREADY_OVER"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    private, public = tmp_path / "key.json", tmp_path / "jwks.json"
    generate_key_files(private, public)
    return private, public


def signer_of(private: Path, clock: FakeClock) -> PrincipalSigner:
    return PrincipalSigner(key=OKPKey.import_key(json.loads(private.read_text())), issuer="gateway-0", clock=clock)


def test_token_is_signed_for_its_principal_and_audience_and_reused_for_half_its_life(keys: tuple[Path, Path]) -> None:
    clock = FakeClock()
    signer = signer_of(keys[0], clock)
    tokens = PrincipalTokens(signer=signer, audience="headrace-quota", ttl_s=60, clock=clock)
    verifier = PrincipalVerifier(jwks_path=keys[1], audience="headrace-quota", clock=clock)
    alice = Principal(tenant_id="acme", roles=frozenset({"user"}), key_id="k1", subject="key:k1")
    promoted = Principal(tenant_id="acme", roles=frozenset({"user", "admin"}), key_id="k1", subject="key:k1")
    first = tokens.token(alice)
    assert verifier.verify(first) == alice
    assert verifier.verify(tokens.token(promoted)) == promoted
    clock.advance(29.9)
    assert tokens.token(alice) == first
    clock.advance(0.2)
    second = tokens.token(alice)
    assert second != first
    clock.advance(29.8)
    assert tokens.token(alice) == second
    assert verifier.verify(second) == alice


def test_number_of_kept_tokens_is_bounded(keys: tuple[Path, Path]) -> None:
    clock = FakeClock()
    signer = signer_of(keys[0], clock)
    tokens = PrincipalTokens(signer=signer, audience="headrace-quota", ttl_s=60, clock=clock, kept_max=2)
    people = [Principal(tenant_id="acme", roles=frozenset({"user"}), key_id=f"k{number}") for number in range(3)]
    first = tokens.token(people[0])
    for person in people[1:]:
        tokens.token(person)
    assert tokens.token(people[0]) != first


def test_trailing_metadata_is_forwarded_without_what_grpc_writes_itself() -> None:
    error = AioRpcError(
        grpc.StatusCode.NOT_FOUND,
        Metadata(),
        Metadata(
            ("x-request-id", "r1"),
            ("grpc-status-details-bin", b"\x08\x05"),
            ("grpc-server-stats-bin", b"x"),
            ("x-detail", "d"),
        ),
    )
    assert forwarded(error.trailing_metadata()) == (
        ("x-request-id", "r1"),
        ("grpc-status-details-bin", b"\x08\x05"),
        ("x-detail", "d"),
    )
    assert forwarded(None) == ()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED], ids=lambda code: code.name)
async def test_a_service_that_stops_under_a_call_is_one_that_cannot_be_reached(
    keys: tuple[Path, Path], code: grpc.StatusCode
) -> None:
    clock = FakeClock()
    tokens = PrincipalTokens(signer=signer_of(keys[0], clock), audience="headrace-registry", ttl_s=60, clock=clock)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        failure = Upstream(name="registry", channel=channel, tokens=tokens).failure(
            AioRpcError(code, Metadata(), Metadata(), "CANCELLED")
        )
    assert failure is not None
    assert (failure.reason, failure.entry.retry is not None) == ("REGISTRY_UNAVAILABLE", True)
