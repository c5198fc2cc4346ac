"""Tokens that runners join with, as a file of their digests: what gateways check against and `headrace` writes."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from headrace_common.errors import ConfigError

ANY_TENANT = "*"
TOKEN_CHARS_MAX = 512
_TOKENS_MAX = 10_000
_FILE_BYTES_MAX = 8 << 20
_BASE62 = string.ascii_letters + string.digits
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TENANT = re.compile(r"[a-z][a-z0-9-]{1,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEYS = {"id", "sha256", "tenant", "runner", "created_at", "expires_at"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What a gateway knows of a token, and what it allows.

    Attributes:
        sha256: Digest of the token, hexadecimal; the token itself is shown once and kept by the runner.
        tenant: The tenant whose dedicated runners join with it; empty means shared runners, `*` either.
        runner: The only runner's name that it is for; empty means any.
        expires_at: When it ends, and sessions with it; None means never.
    """

    id: str
    sha256: str
    tenant: str = ""
    runner: str = ""
    created_at: datetime | None = None
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError("an id must be 1 to 64 letters, digits, dashes or underscores")
        if not _DIGEST.fullmatch(self.sha256):
            raise ValueError("a digest must be 64 hexadecimal digits")
        if self.tenant and self.tenant != ANY_TENANT and not _TENANT.fullmatch(self.tenant):
            raise ValueError("a tenant must be 2 to 63 lower-case letters, digits or dashes, a letter first, or '*'")
        if len(self.runner) > 128:
            raise ValueError("a runner's name must have 128 characters at most")
        for moment in (self.created_at, self.expires_at):
            if moment is not None and moment.tzinfo is None:
                raise ValueError("a time must name its zone, as 2030-01-31T12:00:00Z")


def new_join_token(
    *, tenant: str = "", runner: str = "", now: datetime, expires_at: datetime | None = None
) -> tuple[str, JoinToken]:
    """A random token, and its entry. Raises ValueError where tenant or runner can't be."""
    public, secret = ("".join(secrets.choice(_BASE62) for _ in range(length)) for length in (8, 40))
    token = f"hrj_{public}_{secret}"
    return token, JoinToken(
        id=public, sha256=digest_of(token), tenant=tenant, runner=runner, created_at=now, expires_at=expires_at
    )


def digest_of(token: str) -> str:
    """How a token is kept."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_join_tokens(path: Path) -> dict[str, JoinToken]:
    """The entries by their digests.

    Raises:
        ConfigError: It can't be read, or an entry is none; says which, and nothing of a token.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_BYTES_MAX + 1)
        document: object = json.loads(raw) if len(raw) <= _FILE_BYTES_MAX else None
    except (OSError, ValueError, RecursionError):
        raise _bad(path, "can't be read as JSON") from None
    entries = cast("dict[str, Any]", document).get("tokens") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise _bad(path, 'must hold {"tokens": [...]}')
    listed = cast("list[object]", entries)
    if len(listed) > _TOKENS_MAX:
        raise _bad(path, f"must hold {_TOKENS_MAX} tokens at most")
    tokens: dict[str, JoinToken] = {}
    ids: set[str] = set()
    for index, entry in enumerate(listed):
        try:
            token = _parsed(entry)
        except (ValueError, TypeError) as error:
            raise _bad(path, f"has a bad entry, number {index + 1}: {error}") from None
        if token.sha256 in tokens or token.id in ids:
            raise _bad(path, f"has the token {token.id} twice")
        ids.add(token.id)
        tokens[token.sha256] = token
    return tokens


def render_join_tokens(tokens: Iterable[JoinToken]) -> str:
    """The file's text."""
    entries = [
        {name: value for name, value in _fields(token).items() if value}
        for token in sorted(tokens, key=lambda token: token.id)
    ]
    return json.dumps({"tokens": entries}, indent=2) + "\n"


def _fields(token: JoinToken) -> dict[str, str]:
    return {
        "id": token.id,
        "sha256": token.sha256,
        "tenant": token.tenant,
        "runner": token.runner,
        "created_at": _text(token.created_at),
        "expires_at": _text(token.expires_at),
    }


def _parsed(entry: object) -> JoinToken:
    if not isinstance(entry, dict):
        raise TypeError("it is no object")
    fields = cast("dict[str, object]", entry)
    if unknown := sorted(set(fields) - _KEYS):
        raise ValueError(f"unknown field {unknown[0]!r}")
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    if len(texts) < len(fields):
        raise TypeError("every field is a text")
    if "id" not in texts or "sha256" not in texts:
        raise ValueError("it needs id and sha256")
    return JoinToken(
        id=texts["id"],
        sha256=texts["sha256"],
        tenant=texts.get("tenant", ""),
        runner=texts.get("runner", ""),
        created_at=_moment(texts.get("created_at")),
        expires_at=_moment(texts.get("expires_at")),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _text(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else ""


def _bad(path: Path, why: str) -> ConfigError:
    return ConfigError(f"the file of join tokens {path} {why}", context={"file": str(path)})
