"""Settings: environment over YAML over defaults; a wrong value names the variable to correct."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast, get_args

import yaml
from pydantic import BeforeValidator, Field, SecretStr
from pydantic import ValidationError as PydanticValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from headrace_common import catalogue
from headrace_common.errors import ConfigError
from headrace_common.secrets import is_reference, resolve_secret

S = TypeVar("S", bound="ServiceSettings")
ENVIRONMENTS = ("dev", "test", "prod")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaList = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A list that is written `a,b,c` in the environment and as a list in YAML."""


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = (part.partition("=") for part in value.split(",") if part.strip())
    return {name.strip(): text.strip() for name, _, text in parts}


CommaPairs = Annotated[dict[str, str], BeforeValidator(_pairs)]
"""Names with texts, written `a=1,b=2` in the environment and as a map in YAML."""


class ServiceSettings(BaseSettings):
    """What every service can be told. A service's own settings derive from this and set `service`.

    A field declared here is HEADRACE_<FIELD>; one declared by a service is HEADRACE_<SERVICE>_<FIELD>. In YAML shared
    fields stand at the top level and a service's own under its name. `SecretStr` values may be `file://` or
    `vault://path#key` references; so may the paths of secrets, which `secrets.read_secret` reads.
    """

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)
    service: ClassVar[str] = ""

    env: Literal["dev", "test", "prod"] = Field(default="dev", description="Which YAML file lies over base.yaml.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level logged."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="json for machines, console for a terminal."
    )
    metrics_address: str = Field(
        default="127.0.0.1:0", description="host:port of the metrics endpoint; port 0 means any."
    )
    state_dir: Path = Field(default=Path(".headrace"), description="Folder for what the process keeps on disk.")
    ready_file: Path | None = Field(default=None, description="Where to write the bound addresses once serving.")
    shutdown_grace_s: float = Field(
        default=10.0, ge=0, le=600, description="Seconds that running calls get after SIGTERM."
    )
    message_bytes_max: int = Field(
        default=64 << 20, ge=1 << 16, le=1 << 30, description="Largest gRPC message accepted, bytes."
    )
    calls_in_flight_max: int = Field(default=1_000, ge=1, description="Calls handled at once; more are refused.")
    call_timeout_s: float = Field(default=30.0, gt=0, description="Deadline of a call whose client sent none, seconds.")
    postgres_url: SecretStr | None = Field(default=None, description="postgresql:// URL of the database.")
    postgres_pool_max: int = Field(default=10, ge=1, le=1_000, description="Most database connections of this process.")
    redis_url: SecretStr | None = Field(default=None, description="redis:// URL of Valkey or Redis.")
    storage_url: str | None = Field(
        default=None, description="Object store: a directory, local://, s3://, gs:// or az://."
    )
    join_token_file: Path | str | None = Field(
        default=None, description="Token that runners join with: a file (0600) or vault://path#key."
    )
    principal_key_file: Path | str | None = Field(
        default=None, description="Private JWK that gateways sign principals with: a file (0600) or vault://path#key."
    )
    principal_jwks_file: Path | None = Field(
        default=None, description="Public JWK set that principals are checked against."
    )
    tls_certificate_file: Path | None = Field(
        default=None, description="PEM chain of the service; empty means plaintext."
    )
    tls_key_file: Path | str | None = Field(
        default=None, description="PEM private key that belongs to the certificate: a file (0600) or vault://path#key."
    )
    tls_ca_file: Path | None = Field(
        default=None, description="PEM authorities that peers' certificates must chain to."
    )

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable of a field."""
        if field in ServiceSettings.model_fields:
            return f"HEADRACE_{field.upper()}"
        return f"HEADRACE_{cls.service.upper()}_{field.upper()}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Constructor arguments only: `load_settings` gathers the rest, so precedence and names are in one place."""
        return (init_settings,)


def load_settings(
    cls: type[S], *, env: str | None = None, config_dir: Path | None = None, environ: Mapping[str, str] | None = None
) -> S:
    """Reads a service's settings: HEADRACE_* over `<env>.yaml` over `base.yaml` over defaults.

    Args:
        cls: The service's settings class.
        env: `dev`, `test` or `prod`; else HEADRACE_ENV; else `dev`.
        config_dir: Folder of the YAML files; else HEADRACE_CONFIG_DIR; without either no file is read.
        environ: In place of the process environment. Variables that are empty count as unset.

    Raises:
        ConfigError: A value, file or secret is wrong; the message names the variable, or the file and key.
    """
    variables = environ if environ is not None else os.environ
    chosen = env or variables.get("HEADRACE_ENV") or "dev"
    if chosen not in ENVIRONMENTS:
        raise _invalid("HEADRACE_ENV", "must be dev, test or prod")
    directory = config_dir or (Path(path) if (path := variables.get("HEADRACE_CONFIG_DIR")) else None)
    values, sources = _from_yaml(cls, directory, chosen) if directory is not None else ({}, {})
    for field in cls.model_fields:
        variable = cls.variable(field)
        if value := variables.get(variable):
            values[field] = value
            sources[field] = variable
    values["env"] = chosen
    for field, info in cls.model_fields.items():
        value = values.get(field)
        if isinstance(value, str) and _is_secret(info) and is_reference(value):
            values[field] = resolve_secret(value, environ=variables)
    try:
        return cls(**values)
    except PydanticValidationError as error:
        raise _explained(cls, error, sources) from None


def describe_settings(settings: ServiceSettings) -> dict[str, str]:
    """Every variable with its present value as text, secrets masked: what `--print-config` prints."""
    return {
        settings.variable(field): _shown(cast("object", getattr(settings, field)))
        for field in type(settings).model_fields
    }


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(str(part) for part in cast("tuple[object, ...]", value))
    return str(value)


def _from_yaml(cls: type[ServiceSettings], directory: Path, env: str) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in ("base", env):
        path = directory / f"{name}.yaml"
        if not path.is_file():
            continue
        try:
            document: object = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            raise _bad_file(path, "can't be read as YAML") from None
        if document is None:
            continue
        if not isinstance(document, dict):
            raise _bad_file(path, "must hold a mapping of settings")
        for key, value in cast("dict[object, object]", document).items():
            if isinstance(value, dict):
                if key == cls.service:
                    _take(cls, cast("dict[object, object]", value), path, values, sources, shared=False)
            else:
                _take(cls, {key: value}, path, values, sources, shared=True)
    return values, sources


def _take(
    cls: type[ServiceSettings],
    section: Mapping[object, object],
    path: Path,
    values: dict[str, Any],
    sources: dict[str, str],
    *,
    shared: bool,
) -> None:
    for key, value in section.items():
        known = isinstance(key, str) and key in cls.model_fields
        if not known or (key in ServiceSettings.model_fields) is not shared:
            where = "a shared setting" if shared else f"a setting of {cls.service}"
            raise _bad_file(path, f"has the key {str(key)!r}, which is not {where}")
        if value is not None:
            values[cast("str", key)] = value
            sources[cast("str", key)] = f"{path}: {key if shared else f'{cls.service}.{key}'}"


def _is_secret(info: FieldInfo) -> bool:
    return info.annotation is SecretStr or SecretStr in get_args(info.annotation)


def _explained(cls: type[ServiceSettings], error: PydanticValidationError, sources: Mapping[str, str]) -> ConfigError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    variable = cls.variable(field) if field else "the settings"
    if first["type"] == "missing":
        return ConfigError(f"{variable} must be set", entry=catalogue.SETTING_MISSING, context={"variable": variable})
    source = sources.get(field, variable)
    origin = f" (from {source})" if source != variable else ""
    return _invalid(variable, f"is not valid{origin}: {first['msg']}")


def _invalid(variable: str, why: str) -> ConfigError:
    return ConfigError(f"{variable} {why}", entry=catalogue.SETTING_INVALID, context={"variable": variable})


def _bad_file(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} {why}", entry=catalogue.CONFIG_FILE_INVALID, context={"file": str(path)})
