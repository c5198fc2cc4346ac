"""An HTTP front refuses to start with settings that can't be right, and says which."""

from __future__ import annotations

import pytest

from headrace_common.errors import ConfigError
from headrace_common.settings import load_settings
from headrace_gateway.http.config import HttpSettings, check_settings


def load(**variables: str) -> HttpSettings:
    settings = load_settings(HttpSettings, environ={"HEADRACE_HTTP_GATEWAY_ADDRESS": "127.0.0.1:1", **variables})
    check_settings(settings)
    return settings


def test_defaults_are_loopback_and_closed_to_pages() -> None:
    assert (load().address, load().cors_origins, load().share_port) == ("127.0.0.1:8080", (), False)


@pytest.mark.parametrize(
    "variables",
    [
        {"HEADRACE_HTTP_BODIES_BYTES_MAX": "100000"},
        {"HEADRACE_HTTP_SHARE_PORT": "true", "HEADRACE_HTTP_ADDRESS": "127.0.0.1:0"},
        {"HEADRACE_HTTP_HEAD_TIMEOUT_S": "0"},
        {"HEADRACE_HTTP_CLIENT_CA_FILE": "ca.pem"},
        {
            "HEADRACE_TLS_KEY_FILE": "vault://secret/front#key",
            "HEADRACE_TLS_CERTIFICATE_FILE": "front.crt",
            "HEADRACE_TLS_CA_FILE": "ca.pem",
            "HEADRACE_HTTP_GATEWAY_ADDRESS": "gateway:8081",
        },
    ],
)
def test_what_can_not_be_right_names_its_variable(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**variables)
    assert next(iter(variables)) in caught.value.message
