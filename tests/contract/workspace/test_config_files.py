"""The YAML files of config/ load into every service."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_common.errors import ConfigError
from headrace_common.settings import ServiceSettings, load_settings
from headrace_gateway.config import GatewaySettings
from headrace_quota.config import QuotaSettings
from headrace_registry.config import RegistrySettings
from headrace_runner.config import RunnerSettings

CONFIG = Path(__file__).parents[3] / "config"
REQUIRED = {
    "HEADRACE_GATEWAY_QUOTA_ADDRESS": "127.0.0.1:1",
    "HEADRACE_GATEWAY_REGISTRY_ADDRESS": "127.0.0.1:2",
    "HEADRACE_POSTGRES_URL": "postgresql://127.0.0.1/headrace",
    "HEADRACE_STORAGE_URL": "/nowhere",
}


@pytest.mark.parametrize("env", ["dev", "test", "prod"])
@pytest.mark.parametrize("settings", [GatewaySettings, QuotaSettings, RegistrySettings, RunnerSettings])
def test_every_service_reads_the_files_of_each_environment(settings: type[ServiceSettings], env: str) -> None:
    loaded = load_settings(settings, env=env, config_dir=CONFIG, environ=REQUIRED)
    assert loaded.env == env
    assert loaded.log_format == ("console" if env == "dev" else "json")


def test_environment_wins_over_the_files() -> None:
    loaded = load_settings(QuotaSettings, env="prod", config_dir=CONFIG, environ={"HEADRACE_LOG_LEVEL": "error"})
    assert loaded.log_level == "error"


def test_production_has_no_keyless_door() -> None:
    gateway = load_settings(GatewaySettings, env="prod", config_dir=CONFIG, environ=REQUIRED)
    assert (gateway.community, gateway.reflection) == (False, "keyed")


def test_wrong_value_names_its_variable() -> None:
    with pytest.raises(ConfigError, match="HEADRACE_SHUTDOWN_GRACE_S"):
        load_settings(QuotaSettings, config_dir=CONFIG, environ={"HEADRACE_SHUTDOWN_GRACE_S": "soon"})
