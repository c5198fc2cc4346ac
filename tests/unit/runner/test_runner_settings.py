"""What the runner can be told, and what it refuses to be told."""

from __future__ import annotations

import pytest

from headrace_common.errors import ConfigError
from headrace_common.settings import load_settings
from headrace_runner.config import RunnerSettings


def test_lists_and_labels_are_read_from_the_environment() -> None:
    settings = load_settings(
        RunnerSettings,
        environ={
            "HEADRACE_RUNNER_GATEWAYS": "127.0.0.1:1, dns:///gateways:2",
            "HEADRACE_RUNNER_LABELS": "zone=a, spot=true",
            "HEADRACE_RUNNER_THREADS": "2",
        },
    )
    assert settings.gateways == ("127.0.0.1:1", "dns:///gateways:2")
    assert settings.labels == {"zone": "a", "spot": "true"}
    assert settings.threads == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADRACE_RUNNER_THREADS", "-1"),
        ("HEADRACE_RUNNER_DEVICE", "abacus"),
        ("HEADRACE_RUNNER_LABELS", "=nameless"),
        ("HEADRACE_RUNNER_CACHE_BYTES_MAX", "little"),
    ],
)
def test_a_wrong_value_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(RunnerSettings, environ={variable: value})
    assert variable in caught.value.message
