"""Where a mesh is and who calls it: from arguments, the environment, or a profile file."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from headrace_client import failures
from headrace_client.errors import ConfigError

DEFAULT_ENDPOINT = "127.0.0.1:8081"
LOCAL_API_KEY = "community"
"""The well-known key of a mesh that listens on this machine only; never sent anywhere else."""

_FIELDS = {"endpoint", "api_key", "tls"}
_TLS_FIELDS = {"ca_file", "cert_file", "key_file", "server_name"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """An encrypted connection.

    Attributes:
        ca_file: PEM file of the authorities to trust; None means those of grpc.
        cert_file: PEM file of the client's certificate, where the mesh asks for one.
        key_file: PEM file of its private key.
        server_name: Name that the server's certificate must have, where it is not that of the endpoint.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """What a connection needs.

    Attributes:
        endpoint: `host:port`, or any target that grpc knows, such as `dns:///mesh.example.com:443`.
        api_key: The key to call with; None calls without.
        tls: None means an unencrypted connection.
        headers: Further metadata of every call, for somebody who calls in the name of others.
        own_connection: False lets clients of one process share a connection to the same endpoint.
    """

    endpoint: str
    api_key: str | None = field(repr=False)
    tls: Tls | None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False, kw_only=True)
    own_connection: bool = field(default=True, kw_only=True)


def client_options(
    endpoint: str | None = None,
    *,
    api_key: str | None = None,
    profile: str | None = None,
    tls: Tls | bool | None = None,
    default_endpoint: str = DEFAULT_ENDPOINT,
    environ: Mapping[str, str] | None = None,
) -> ClientOptions:
    """The options for what was given; what was not is looked for in this order.

    1. the profile `profile` of the profile file;
    2. HEADRACE_ENDPOINT and HEADRACE_API_KEY, the key not for the endpoint of 1.;
    3. unless the endpoint is known by now, the profile that HEADRACE_PROFILE names, else the profile `default` if the
       file has one: its key belongs to its endpoint;
    4. `default_endpoint`, with the key `community` for endpoints on this machine.

    The profile file is HEADRACE_CONFIG, else `headrace/config.toml` under XDG_CONFIG_HOME or `~/.config`:

        [profiles.default]
        endpoint = "mesh.example.com:443"
        api_key = "@~/.config/headrace/key"
        tls = true                             # or a table: ca_file, cert_file, key_file, server_name

    Args:
        endpoint: `host:port`, optionally after `http://`, or `https://`, which asks for TLS.
        api_key: The key, or `@FILE` to read it from a file. Empty calls without a key.
        profile: Name of a profile that must exist.
        tls: True means TLS with the usual authorities, False none; None leaves it to the endpoint or profile.
        default_endpoint: Where to call when nobody says where.
        environ: Stands in for the process's environment.

    Raises:
        ConfigError: the file can't be read, the profile doesn't exist, or a value can't be right.
    """
    environ = os.environ if environ is None else environ
    named = _profile(environ, profile) if profile is not None else {}
    target = endpoint or _text(named, "endpoint") or environ.get("HEADRACE_ENDPOINT")
    implied = {} if target or profile is not None else _profile(environ, environ.get("HEADRACE_PROFILE") or None)
    target = target or _text(implied, "endpoint") or default_endpoint
    if tls is None:
        tls = _tls({**implied, **named}.get("tls")) or target.startswith("https://")
    target = target.removeprefix("https://").removeprefix("http://").rstrip("/")
    if api_key is None:
        api_key = _text(named, "api_key")
    if api_key is None and (endpoint or not _text(named, "endpoint")):
        # The environment's key is not for an endpoint that a profile was asked for by name.
        api_key = environ.get("HEADRACE_API_KEY") or _text(implied, "api_key")
    if api_key is None and _is_local(target):
        api_key = LOCAL_API_KEY
    return ClientOptions(
        endpoint=target,
        api_key=_key(api_key) if api_key else None,
        tls=(Tls() if tls else None) if isinstance(tls, bool) else tls,
    )


def config_file(environ: Mapping[str, str]) -> Path:
    """Where the profile file is, whether it exists or not."""
    if environ.get("HEADRACE_CONFIG"):
        return Path(environ["HEADRACE_CONFIG"])
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "headrace" / "config.toml"


def _is_local(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _profile(environ: Mapping[str, str], name: str | None) -> dict[str, Any]:
    path = config_file(environ)
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        if name is None and not environ.get("HEADRACE_CONFIG"):
            return {}
        raise _file_error(path, "does not exist") from None
    except (OSError, UnicodeDecodeError):
        raise _file_error(path, "can't be read") from None
    except tomllib.TOMLDecodeError as error:
        raise _file_error(path, f"is not TOML: {error}") from None
    profiles = document.get("profiles", {})
    if not isinstance(profiles, dict):
        raise _file_error(path, "has no profiles: 'profiles' must be a table of tables")
    profiles = cast("dict[str, object]", profiles)
    if name is not None and name not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise _file_error(path, f"has no profile '{name}'; its profiles: {known}")
    profile = profiles.get(name or "default", {})
    if not isinstance(profile, dict):
        raise _file_error(path, f"profile '{name}' must be a table")
    fields = cast("dict[str, Any]", profile)
    if unknown := sorted(fields.keys() - _FIELDS):
        raise _file_error(path, f"profile '{name or 'default'}' has the unknown field '{unknown[0]}'")
    return fields


def _text(profile: Mapping[str, Any], field: str) -> str | None:
    value = profile.get(field)
    if value is None or isinstance(value, str):
        return value or None
    raise ConfigError(f"'{field}' of the profile must be a text", failures.CONFIG_FILE_INVALID, field=field)


def _tls(value: Any) -> Tls | None:
    if value is None or isinstance(value, bool):
        return Tls() if value else None
    if not isinstance(value, dict):
        raise ConfigError("'tls' of the profile must be true, false or a table", failures.CONFIG_FILE_INVALID)
    fields = cast("dict[str, Any]", value)
    if fields.keys() - _TLS_FIELDS:
        allowed = ", ".join(sorted(_TLS_FIELDS))
        raise ConfigError(f"'tls' of the profile may have {allowed} only", failures.CONFIG_FILE_INVALID)

    def path(field: str) -> Path | None:
        text = _text(fields, field)
        return Path(text).expanduser() if text else None

    return Tls(
        ca_file=path("ca_file"),
        cert_file=path("cert_file"),
        key_file=path("key_file"),
        server_name=_text(fields, "server_name"),
    )


def _key(value: str) -> str:
    if value.startswith("@"):
        path = Path(value[1:]).expanduser()
        try:
            value = path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"the API key can't be read from {path}", failures.SECRET_UNAVAILABLE) from None
    if not (value.isascii() and value.isprintable() and value.strip() == value != ""):
        raise ConfigError("an API key is printable ASCII without spaces around it", failures.SETTING_INVALID)
    return value


def _file_error(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} {what}", failures.CONFIG_FILE_INVALID, context={"file": str(path)})
