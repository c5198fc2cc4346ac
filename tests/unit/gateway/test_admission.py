"""Who may join a gateway, as what, and until when."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import AuthError, ConfigError
from headrace_common.join_tokens import JoinToken, new_join_token, render_join_tokens
from headrace_common.testing import FakeClock
from headrace_gateway.mesh.admission import Admission, Admissions, RefusedRunner
from support.certificates import Authority


class Door:
    """Admissions over a file of tokens and a clock."""

    def __init__(self, folder: Path, *, shared: str | None = None, certificates: bool = False) -> None:
        self.clock = FakeClock()
        self.file = folder / "join.tokens"
        self.entries: list[JoinToken] = []
        self._write()
        self.admissions = Admissions(
            shared_token=shared,
            tokens_file=self.file,
            certificates=certificates,
            trust_domain="headrace",
            clock=self.clock,
        )

    def token(self, *, tenant: str = "", runner: str = "", lasts_s: float | None = None) -> str:
        now = self.clock.now()
        ends = now + timedelta(seconds=lasts_s) if lasts_s is not None else None
        token, entry = new_join_token(tenant=tenant, runner=runner, now=now, expires_at=ends)
        self.entries.append(entry)
        self._write()
        return token

    def revoke(self, token: str) -> None:
        self.entries = [entry for entry in self.entries if entry.id not in token]
        self._write()

    def admit(self, token: str | bytes | None, certificate: bytes | None = None) -> Admission:
        authorization = f"Bearer {token}" if isinstance(token, str) else token
        return self.admissions.admit(certificate=certificate, authorization=authorization)

    def _write(self) -> None:
        self.file.write_text(render_join_tokens(self.entries))
        self.clock.advance(1.0)


def hello(tenant: str = "", name: str = "runner-0") -> mesh_pb2.Hello:
    return mesh_pb2.Hello(runner_name=name, labels={"tenant": tenant} if tenant else {})


def shown(tmp_path: Path, uri: str | None) -> bytes:
    certificate = Authority(tmp_path, "ca").issue("runner", uri=uri).certificate
    assert certificate is not None
    return certificate.read_bytes()


def test_a_token_says_whose_runners_join_with_it(tmp_path: Path) -> None:
    door = Door(tmp_path, shared="the-shared-one")
    tokens = {tenant: door.token(tenant=tenant) for tenant in ("", "acme", "*")}
    allowed = {"": {""}, "acme": {"acme"}, "*": {"", "acme", "globex"}}
    for tenant, token in [*tokens.items(), ("", "the-shared-one")]:
        admission = door.admit(token)
        for claimed in ("", "acme", "globex"):
            if claimed in allowed[tenant]:
                admission.check(hello(claimed))
                continue
            with pytest.raises(AuthError) as caught:
                admission.check(hello(claimed))
            assert caught.value.entry is catalogue.JOIN_FORBIDDEN
            assert caught.value.context == {"claim": "tenant"}


def test_a_token_for_one_runner_is_for_no_other(tmp_path: Path) -> None:
    door = Door(tmp_path)
    admission = door.admit(door.token(runner="gpu-1"))
    admission.check(hello(name="gpu-1"))
    with pytest.raises(AuthError, match="for the runner 'gpu-1'"):
        admission.check(hello(name="gpu-2"))


def test_strangers_are_all_told_the_same(tmp_path: Path) -> None:
    door = Door(tmp_path, shared="the-shared-one")
    good, ended = door.token(), door.token(lasts_s=5)
    revoked = door.token()
    door.revoke(revoked)
    door.clock.advance(10)
    headers: list[str | bytes | None] = [
        None,
        "",
        "Bearer ",
        "Bearer",
        b"\xff\xfe",
        good,
        "bearer " + good,
        "Basic " + good,
        "Bearer  " + good,
        "Bearer " + good + " ",
        "Bearer " + good[:-1],
        "Bearer " + good[1:],
        "Bearer " + good + "x",
        "Bearer " + good.swapcase(),
        "Bearer " + "x" * 100_000,
        "Bearer " + ended,
        "Bearer " + revoked,
        "Bearer the-shared-on",
        "Bearer " + door.entries[0].sha256,
    ]
    told: set[tuple[str, str, str]] = set()
    for header in headers:
        with pytest.raises(RefusedRunner) as caught:
            door.admissions.admit(certificate=None, authorization=header)
        told.add((caught.value.message, caught.value.reason, str(caught.value.context)))
    assert told == {("the join token is not valid", "JOIN_TOKEN_INVALID", "{}")}
    assert door.admit(good).tenant == ""


def test_a_session_holds_as_long_as_its_token_does(tmp_path: Path) -> None:
    door = Door(tmp_path, shared="the-shared-one")
    for_ever, short, revoked = door.token(), door.token(lasts_s=60), door.token()
    admissions = {name: door.admit(name) for name in (for_ever, short, revoked, "the-shared-one")}

    def holding() -> list[str]:
        return [name for name, admission in admissions.items() if door.admissions.holds(admission)]

    assert holding() == [for_ever, short, revoked, "the-shared-one"]
    door.revoke(revoked)
    assert holding() == [for_ever, short, "the-shared-one"]
    door.clock.advance(60)
    assert holding() == [for_ever, "the-shared-one"]


def test_a_token_that_changes_hands_ends_its_sessions(tmp_path: Path) -> None:
    door = Door(tmp_path)
    admission = door.admit(door.token(tenant="acme"))
    (entry,) = door.entries
    door.entries = [JoinToken(id=entry.id, sha256=entry.sha256, tenant="globex")]
    door.token()
    assert not door.admissions.holds(admission)


def test_a_file_that_can_not_be_read_any_more_leaves_the_known_tokens(tmp_path: Path) -> None:
    door = Door(tmp_path)
    token = door.token()
    admission = door.admit(token)
    for damage in (lambda: door.file.write_text("{"), door.file.unlink):
        damage()
        door.clock.advance(2)
        assert door.admit(token) == admission
        assert door.admissions.holds(admission)
    door.revoke(token)
    with pytest.raises(RefusedRunner):
        door.admit(token)


def test_a_bad_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="join tokens"):
        Admissions(
            shared_token=None,
            tokens_file=tmp_path / "absent",
            certificates=False,
            trust_domain="headrace",
            clock=FakeClock(),
        )


def test_a_runners_certificate_needs_no_token_and_decides(tmp_path: Path) -> None:
    door = Door(tmp_path, shared="the-shared-one", certificates=True)
    pem = shown(tmp_path, "spiffe://headrace/tenant/acme/runner/gpu-1")
    for token in (None, "the-shared-one", "wrong"):
        admission = door.admit(token, pem)
        assert (admission.subject, admission.tenant) == ("spiffe://headrace/tenant/acme/runner/gpu-1", "acme")
        admission.check(hello("acme", "gpu-1"))
        for claimed in (hello("", "gpu-1"), hello("globex", "gpu-1"), hello("acme", "gpu-2")):
            with pytest.raises(AuthError, match="claims another"):
                admission.check(claimed)
    assert admission.ends_at is not None
    assert door.admissions.holds(admission) is (admission.ends_at > door.clock.now())


@pytest.mark.parametrize("uri", [None, "spiffe://headrace/gateway", "spiffe://elsewhere/runner"])
def test_a_certificate_of_no_runner_needs_a_token(uri: str | None, tmp_path: Path) -> None:
    door = Door(tmp_path, shared="the-shared-one", certificates=True)
    pem = shown(tmp_path, uri)
    with pytest.raises(RefusedRunner, match="not valid"):
        door.admit(None, pem)
    assert door.admit("the-shared-one", pem).subject == "token:shared"


def test_a_gateway_that_asks_for_nothing_lets_everybody_in() -> None:
    clock = FakeClock()
    lets = {
        certificates: Admissions(
            shared_token=None, tokens_file=None, certificates=certificates, trust_domain="headrace", clock=clock
        )
        for certificates in (False, True)
    }
    admission = lets[False].admit(certificate=None, authorization=None)
    admission.check(hello("acme"))
    assert lets[False].holds(admission)
    with pytest.raises(RefusedRunner):
        lets[True].admit(certificate=None, authorization=None)
