"""The file of join tokens: what is written can be read, and nothing else is taken for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headrace_common.errors import ConfigError
from headrace_common.join_tokens import JoinToken, digest_of, new_join_token, read_join_tokens, render_join_tokens

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD: dict[str, Any] = {"id": "abc", "sha256": "0" * 64}


def test_what_is_written_is_read_and_has_no_token_in_it(tmp_path: Path) -> None:
    made = [
        new_join_token(now=NOW),
        new_join_token(tenant="acme", runner="gpu-1", now=NOW, expires_at=NOW.replace(year=2031)),
        new_join_token(tenant="*", now=NOW),
    ]
    path = tmp_path / "tokens"
    path.write_text(render_join_tokens(entry for _, entry in made))
    assert read_join_tokens(path) == {digest_of(token): entry for token, entry in made}
    assert not any(token.rpartition("_")[2] in path.read_text() for token, _ in made)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "can't be read as JSON"),
        ("{", "can't be read as JSON"),
        ("[" * 100_000, "can't be read as JSON"),
        ("[]", "must hold"),
        ("{}", "must hold"),
        ('{"tokens": {}}', "must hold"),
        ('{"tokens": ["a"]}', "number 1: it is no object"),
        (json.dumps({"tokens": [GOOD, {**GOOD, "id": "b"}]}), "has the token b twice"),
        (json.dumps({"tokens": [GOOD, {**GOOD, "sha256": "1" * 64}]}), "has the token abc twice"),
        (json.dumps({"tokens": [{"id": "a"}]}), "needs id and sha256"),
        (json.dumps({"tokens": [{**GOOD, "sha256": "0" * 63}]}), "64 hexadecimal"),
        (json.dumps({"tokens": [{**GOOD, "sha256": "G" * 64}]}), "64 hexadecimal"),
        (json.dumps({"tokens": [{**GOOD, "id": "../x"}]}), "letters, digits"),
        (json.dumps({"tokens": [{**GOOD, "tenant": "Acme"}]}), "a tenant must be"),
        (json.dumps({"tokens": [{**GOOD, "tenant": None}]}), "every field is a text"),
        (json.dumps({"tokens": [{**GOOD, "labels": "x"}]}), "unknown field 'labels'"),
        (json.dumps({"tokens": [{**GOOD, "expires_at": "tomorrow"}]}), "number 1"),
        (json.dumps({"tokens": [{**GOOD, "expires_at": "2030-01-01T00:00:00"}]}), "must name its zone"),
        (json.dumps({"tokens": [{**GOOD, "runner": "x" * 129}]}), "128 characters"),
        (json.dumps({"tokens": [GOOD] * 10_001}), "10000 tokens at most"),
    ],
)
def test_what_is_no_such_file_is_refused_with_a_reason(content: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(ConfigError, match=why):
        read_join_tokens(path)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        read_join_tokens(tmp_path / "absent")
    (tmp_path / "huge").write_bytes(b" " * (9 << 20))
    with pytest.raises(ConfigError, match="must hold"):
        read_join_tokens(tmp_path / "huge")


@pytest.mark.parametrize("fields", [{"tenant": "a"}, {"tenant": "a_b"}, {"runner": "x" * 129}])
def test_a_token_is_not_made_for_what_can_not_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        new_join_token(now=NOW, **fields)


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_join_token(now=NOW)[0] for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 50 for token in tokens)
    assert JoinToken(**GOOD).tenant == ""
