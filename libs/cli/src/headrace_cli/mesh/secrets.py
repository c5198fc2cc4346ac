"""Keys and tokens of one mesh, made once and kept under its state directory."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from pathlib import Path

from headrace_common.join_tokens import ANY_TENANT, JoinToken, digest_of, read_join_tokens, render_join_tokens
from headrace_common.principal import generate_key_files
from headrace_common.secrets import read_secret_file, write_secret_file

_BASE62 = string.ascii_letters + string.digits


@dataclass(frozen=True, kw_only=True)
class MeshSecrets:
    """Files with mode 0600; only paths travel to processes, never by argument."""

    join_token: Path
    join_tokens: Path
    principal_key: Path
    principal_jwks: Path
    admin_key: Path
    postgres_password: str
    valkey_password: str


def open_secrets(folder: Path) -> MeshSecrets:
    """Read the secrets of a mesh, making those that are missing."""
    key, jwks = folder / "principal.key", folder / "principal.jwks"
    if not (key.exists() and jwks.exists()):
        generate_key_files(key, jwks)
    join_token, admin_key = folder / "join.token", folder / "admin.key"
    join_tokens = folder / "join.tokens"
    _admit(_kept(join_token, secrets.token_urlsafe(32)), join_tokens)
    _kept(admin_key, new_api_key())
    return MeshSecrets(
        join_token=join_token,
        join_tokens=join_tokens,
        principal_key=key,
        principal_jwks=jwks,
        admin_key=admin_key,
        postgres_password=_kept(folder / "postgres.password", secrets.token_urlsafe(24)),
        valkey_password=_kept(folder / "valkey.password", secrets.token_urlsafe(24)),
    )


def new_api_key() -> str:
    """A random key of the form that the quota service gives out: `hr_`, 8 public characters, `_`, 40 secret ones."""
    return f"hr_{_random_text(8)}_{_random_text(40)}"


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _admit(token: str, tokens_file: Path) -> None:
    """Writes the mesh's own token into the file that gateways look at; whoever starts a mesh is every tenant."""
    entries = read_join_tokens(tokens_file) if tokens_file.exists() else {}
    entry = JoinToken(id="mesh", sha256=digest_of(token), tenant=ANY_TENANT)
    others = [other for other in entries.values() if other.id != entry.id]
    write_secret_file(tokens_file, render_join_tokens([*others, entry]))


def _kept(path: Path, fresh: str) -> str:
    if not path.exists():
        write_secret_file(path, fresh + "\n")
    return read_secret_file(path)
