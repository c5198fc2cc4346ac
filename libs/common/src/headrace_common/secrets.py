"""Secrets by reference: a file, a Vault path, or the value itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hvac
import hvac.exceptions
import structlog

from headrace_common import catalogue
from headrace_common.errors import ConfigError

_FILE = "file://"
_VAULT = "vault://"
_SECRET_BYTES_MAX = 1 << 20
_SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path


def is_reference(value: str) -> bool:
    return value.startswith((_FILE, _VAULT))


def resolve_secret(value: str, *, environ: Mapping[str, str] | None = None) -> str:
    """Reads what a secret setting refers to.

    `file:///path` is the file's text without the trailing newline. `vault://path#key` is one key of a Vault secret,
    version 2 or 1 of the KV engine, at the full API path (`secret/data/headrace#postgres`). Everything else is literal.
    Vault is addressed by VAULT_ADDR, and entered with VAULT_TOKEN, HEADRACE_VAULT_TOKEN_FILE, or the Kubernetes role
    HEADRACE_VAULT_KUBERNETES_ROLE (auth mount HEADRACE_VAULT_KUBERNETES_MOUNT, default `kubernetes`).

    Raises:
        ConfigError: SECRET_UNAVAILABLE; names the reference, never the value.
    """
    if value.startswith(_FILE):
        return read_secret_file(Path(unquote(urlsplit(value).path)))
    if value.startswith(_VAULT):
        return _from_vault(value, environ if environ is not None else os.environ)
    return value


def read_secret(reference: Path | str, *, environ: Mapping[str, str] | None = None) -> str:
    """Reads the secret that a setting points to: a path, or a `file://` or `vault://` reference of `resolve_secret`.

    Raises:
        ConfigError: SECRET_UNAVAILABLE; names the reference, never the value.
    """
    if isinstance(reference, str) and is_reference(reference):
        return resolve_secret(reference, environ=environ)
    return read_secret_file(Path(reference))


def read_secret_file(path: Path) -> str:
    """The file's text without its trailing newline.

    Raises:
        ConfigError: SECRET_UNAVAILABLE: missing, unreadable, empty, or larger than 1 MiB.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_SECRET_BYTES_MAX + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError):
        raise _unavailable(f"file://{path}", "can't be read") from None
    if len(raw) > _SECRET_BYTES_MAX:
        raise _unavailable(f"file://{path}", "is larger than 1 MiB")
    text = text.rstrip("\r\n")
    if not text:
        raise _unavailable(f"file://{path}", "is empty")
    return text


def write_secret_file(path: Path, text: str) -> None:
    """Writes atomically with mode 0600; the folder is created 0700 where it is missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _from_vault(reference: str, environ: Mapping[str, str]) -> str:
    path, _, key = reference.removeprefix(_VAULT).partition("#")
    if not path or not key:
        raise _unavailable(reference, "must have the form vault://path#key")
    address = environ.get("VAULT_ADDR")
    if not address:
        raise _unavailable(reference, "needs VAULT_ADDR")
    try:
        client = hvac.Client(url=address, namespace=environ.get("VAULT_NAMESPACE"), timeout=10)
        client.token = _vault_token(client, reference, environ)
        answer = cast("dict[str, Any] | None", client.read(path))
        data: Any = (answer or {}).get("data") or {}
        if "metadata" in data and isinstance(data.get("data"), dict):
            data = data["data"]  # version 2 of the KV engine wraps the secret once more
        value: object = data.get(key)
    except (hvac.exceptions.VaultError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        # The last three: an answer that is not of Vault's form, from a proxy for example.
        structlog.stdlib.get_logger("secrets").error("vault failed", reference=reference, error=type(error).__name__)
        raise _unavailable(reference, "can't be read from Vault") from None
    if not isinstance(value, str) or not value:
        raise _unavailable(reference, "has no such key in Vault")
    return value


def _vault_token(client: hvac.Client, reference: str, environ: Mapping[str, str]) -> str:
    if token := environ.get("VAULT_TOKEN"):
        return token
    if token_file := environ.get("HEADRACE_VAULT_TOKEN_FILE"):
        return read_secret_file(Path(token_file))
    role = environ.get("HEADRACE_VAULT_KUBERNETES_ROLE")
    if not role:
        raise _unavailable(reference, "needs VAULT_TOKEN, HEADRACE_VAULT_TOKEN_FILE or HEADRACE_VAULT_KUBERNETES_ROLE")
    account = environ.get("HEADRACE_VAULT_KUBERNETES_TOKEN_FILE", _SERVICE_ACCOUNT_TOKEN)
    auth: Any = client.auth
    login: Any = auth.kubernetes.login(
        role=role,
        jwt=read_secret_file(Path(account)),
        mount_point=environ.get("HEADRACE_VAULT_KUBERNETES_MOUNT", "kubernetes"),
    )
    return str(login["auth"]["client_token"])


def _unavailable(reference: str, why: str) -> ConfigError:
    return ConfigError(
        f"the secret {reference} {why}", entry=catalogue.SECRET_UNAVAILABLE, context={"reference": reference}
    )
