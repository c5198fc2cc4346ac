"""Where a setting comes from, and how a wrong one is reported."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr

from headrace_common import catalogue
from headrace_common.errors import ConfigError
from headrace_common.settings import CommaList, ServiceSettings, describe_settings, load_settings


class MillSettings(ServiceSettings):
    """Settings of an invented service."""

    service: ClassVar[str] = "mill"

    wheels: int = Field(default=2, ge=1, description="How many wheels turn.")
    gateways: CommaList = Field(default=(), description="Where to dial.")
    password: SecretStr | None = Field(default=None, description="A secret of the service's own.")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(
        "# comment\nlog_level: warning\ncall_timeout_s: 5\nmill:\n  wheels: 3\n  gateways: [a:1, b:2]\nother:\n  x: 1\n"
    )
    (tmp_path / "prod.yaml").write_text("log_level: error\nmill:\n  wheels: 4\n")
    (tmp_path / "dev.yaml").write_text("")
    return tmp_path


def load(config: Path | None = None, env: str | None = None, **environ: str) -> MillSettings:
    return load_settings(MillSettings, env=env, config_dir=config, environ=environ)


def refused(config: Path | None = None, env: str | None = None, /, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(config, env, **environ)
    return caught.value


def test_defaults_hold_without_any_source() -> None:
    settings = load()
    assert (settings.env, settings.wheels, settings.log_level) == ("dev", 2, "info")


def test_environment_beats_the_environments_file_beats_base_beats_defaults(config: Path) -> None:
    assert load(config).wheels == 3
    assert load(config).call_timeout_s == 5
    assert load(config, "prod").wheels == 4
    assert load(config, "prod").log_level == "error"
    assert load(config, "prod", HEADRACE_MILL_WHEELS="9", HEADRACE_LOG_LEVEL="debug").wheels == 9
    assert load(config, "prod", HEADRACE_LOG_LEVEL="debug").log_level == "debug"


def test_the_environment_is_chosen_by_option_then_variable(config: Path) -> None:
    assert load(config, HEADRACE_ENV="prod").wheels == 4
    assert load(config, "test", HEADRACE_ENV="prod").wheels == 3
    assert load(None, HEADRACE_ENV="prod", HEADRACE_CONFIG_DIR=str(config)).wheels == 4
    assert "HEADRACE_ENV" in refused(HEADRACE_ENV="staging").message


def test_a_secret_that_is_named_by_a_path_may_lie_in_vault() -> None:
    settings = load(HEADRACE_JOIN_TOKEN_FILE="vault://secret/data/headrace#join", HEADRACE_TLS_KEY_FILE="/etc/key")
    assert settings.join_token_file == "vault://secret/data/headrace#join"
    assert str(settings.tls_key_file) == "/etc/key"


def test_lists_are_comma_separated_in_the_environment(config: Path) -> None:
    assert load(config).gateways == ("a:1", "b:2")
    assert load(config, HEADRACE_MILL_GATEWAYS="c:3, d:4 ,").gateways == ("c:3", "d:4")


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(HEADRACE_MILL_WHEELS="").wheels == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADRACE_MILL_WHEELS", "many"),
        ("HEADRACE_MILL_WHEELS", "0"),
        ("HEADRACE_LOG_LEVEL", "loud"),
        ("HEADRACE_CALL_TIMEOUT_S", "-1"),
        ("HEADRACE_MESSAGE_BYTES_MAX", "1e99"),
    ],
)
def test_a_wrong_value_names_its_variable_and_not_the_value(variable: str, value: str) -> None:
    error = refused(**{variable: value})
    assert error.message.startswith(variable)
    assert error.context == {"variable": variable}
    assert "pydantic" not in error.message


def test_a_wrong_value_in_a_file_names_file_and_variable(config: Path) -> None:
    (config / "prod.yaml").write_text("mill:\n  wheels: none\n")
    message = refused(config, "prod").message
    assert "HEADRACE_MILL_WHEELS" in message
    assert "prod.yaml: mill.wheels" in message


@pytest.mark.parametrize(
    "content", ["mill:\n  wheel: 3\n", "loglevel: info\n", "wheels: 3\n", "mill:\n  log_level: info\n"]
)
def test_a_misspelt_or_misplaced_key_is_refused(config: Path, content: str) -> None:
    (config / "dev.yaml").write_text(content)
    error = refused(config)
    assert error.entry is catalogue.CONFIG_FILE_INVALID
    assert "dev.yaml" in error.message


@pytest.mark.parametrize("content", ["a: [", "- a\n- b\n", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(config: Path, content: str) -> None:
    (config / "dev.yaml").write_text(content)
    assert refused(config).entry is catalogue.CONFIG_FILE_INVALID


def test_secrets_are_read_from_files_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    settings = load(HEADRACE_MILL_PASSWORD=f"file://{path}", HEADRACE_POSTGRES_URL="postgresql://u:hunter3@h/d")
    assert settings.password is not None
    assert settings.password.get_secret_value() == "hunter2"
    assert settings.postgres_url is not None
    assert settings.postgres_url.get_secret_value() == "postgresql://u:hunter3@h/d"
    shown = describe_settings(settings)
    assert "hunter" not in repr(settings) + repr(shown)
    assert shown["HEADRACE_MILL_WHEELS"] == "2"
    assert shown["HEADRACE_LOG_LEVEL"] == "info"


def test_an_unreadable_secret_names_the_reference(tmp_path: Path) -> None:
    error = refused(HEADRACE_MILL_PASSWORD=f"file://{tmp_path}/none")
    assert error.entry is catalogue.SECRET_UNAVAILABLE
    assert "none" in error.message


def test_every_shared_setting_is_described() -> None:
    assert [name for name, info in MillSettings.model_fields.items() if not info.description] == []
