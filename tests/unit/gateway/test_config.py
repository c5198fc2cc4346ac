"""A gateway refuses to start with settings that can't be right, and says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_common.errors import ConfigError
from headrace_common.settings import load_settings
from headrace_gateway.config import GatewaySettings, check_settings, routing_rules
from headrace_gateway.inference.routing_rules import Policy, RoutingRules
from headrace_gateway.oidc.settings import token_rules

NEEDED = {
    "HEADRACE_GATEWAY_QUOTA_ADDRESS": "127.0.0.1:1",
    "HEADRACE_GATEWAY_REGISTRY_ADDRESS": "127.0.0.1:2",
    "HEADRACE_PRINCIPAL_KEY_FILE": "/keys/gateway.json",
}


def load(**variables: str) -> GatewaySettings:
    settings = load_settings(GatewaySettings, environ={**NEEDED, **variables})
    check_settings(settings)
    return settings


def test_defaults_are_loopback_closed_and_64_mib() -> None:
    settings = load()
    assert settings.grpc_address == "127.0.0.1:8081"
    assert settings.message_bytes_max == 64 << 20
    assert (settings.community, settings.reflection) == (False, "keyed")


@pytest.mark.parametrize(
    "variable",
    ["HEADRACE_GATEWAY_GRPC_ADDRESS", "HEADRACE_GATEWAY_MESH_ADDRESS", "HEADRACE_METRICS_ADDRESS"],
)
@pytest.mark.parametrize("address", ["0.0.0.0:8081", "[::]:0", "10.0.0.1:1", "mesh.example:1"])
def test_community_key_needs_every_listener_to_be_loopback(variable: str, address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            HEADRACE_GATEWAY_COMMUNITY="true",
            HEADRACE_JOIN_TOKEN_FILE="/keys/join.token",
            **{variable: address},
        )
    assert variable in caught.value.message
    assert "HEADRACE_GATEWAY_COMMUNITY" in caught.value.message
    assert address in caught.value.message


def test_the_listener_for_fronts_has_no_tls_so_it_is_loopback() -> None:
    assert load(HEADRACE_GATEWAY_FRONT_ADDRESS="127.0.0.1:0").front_address == "127.0.0.1:0"
    with pytest.raises(ConfigError, match="HEADRACE_GATEWAY_FRONT_ADDRESS"):
        load(HEADRACE_GATEWAY_FRONT_ADDRESS="0.0.0.0:8085")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:1", "[::1]:8081"])
def test_community_key_is_accepted_on_loopback(address: str) -> None:
    assert load(HEADRACE_GATEWAY_COMMUNITY="true", HEADRACE_GATEWAY_GRPC_ADDRESS=address).community


def test_reachable_mesh_listener_needs_a_join_token_or_certificates() -> None:
    reachable = {"HEADRACE_GATEWAY_MESH_ADDRESS": "0.0.0.0:7000"}
    with pytest.raises(ConfigError) as caught:
        load(**reachable)
    assert caught.value.context["variable"] == "HEADRACE_JOIN_TOKEN_FILE"
    assert load(**reachable, HEADRACE_JOIN_TOKEN_FILE="/keys/join.token")
    assert load(**reachable, HEADRACE_TLS_CA_FILE="/keys/ca.pem")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"HEADRACE_GATEWAY_REFLECTION": "sometimes"}, "HEADRACE_GATEWAY_REFLECTION"),
        ({"HEADRACE_GATEWAY_QUOTA_ADDRESS": ""}, "HEADRACE_GATEWAY_QUOTA_ADDRESS"),
        ({"HEADRACE_GATEWAY_REGISTRY_ADDRESS": ""}, "HEADRACE_GATEWAY_REGISTRY_ADDRESS"),
        ({"HEADRACE_PRINCIPAL_KEY_FILE": ""}, "HEADRACE_PRINCIPAL_KEY_FILE"),
        ({"HEADRACE_GATEWAY_RESULT_BYTES_MAX": str(1 << 20)}, "HEADRACE_GATEWAY_RESULT_BYTES_MAX"),
        ({"HEADRACE_GATEWAY_PRINCIPAL_TTL_S": "0"}, "HEADRACE_GATEWAY_PRINCIPAL_TTL_S"),
        ({"HEADRACE_GATEWAY_NAME": "Has Spaces"}, "HEADRACE_GATEWAY_NAME"),
        ({"HEADRACE_GATEWAY_ROUTING": "fastest"}, "HEADRACE_GATEWAY_ROUTING"),
        ({"HEADRACE_GATEWAY_TENANT_ROUTING": "acme=fastest"}, "HEADRACE_GATEWAY_TENANT_ROUTING"),
        ({"HEADRACE_GATEWAY_TENANT_ROUTING": "acme"}, "HEADRACE_GATEWAY_TENANT_ROUTING"),
        ({"HEADRACE_GATEWAY_TENANT_ROUTING": "=latency"}, "HEADRACE_GATEWAY_TENANT_ROUTING"),
        ({"HEADRACE_GATEWAY_SLOW_START_S": "-1"}, "HEADRACE_GATEWAY_SLOW_START_S"),
        ({"HEADRACE_MESSAGE_BYTES_MAX": "many"}, "HEADRACE_MESSAGE_BYTES_MAX"),
    ],
)
def test_wrong_value_names_its_variable(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**variables)
    assert caught.value.context["variable"] == named


def test_routing_is_set_for_all_and_for_single_tenants() -> None:
    rules = routing_rules(
        load(
            HEADRACE_GATEWAY_ROUTING="latency",
            HEADRACE_GATEWAY_TENANT_ROUTING="acme=cheapest, beta = round_robin",
            HEADRACE_GATEWAY_DEVICE_PREFERENCE="npu,cpu",
        )
    )
    assert (rules.policy, rules.device_preference) == (Policy.LATENCY, ("npu", "cpu"))
    assert rules.tenant_policies == {"acme": Policy.CHEAPEST, "beta": Policy.ROUND_ROBIN}
    assert routing_rules(load()) == RoutingRules()


def test_every_setting_says_what_it_is_for() -> None:
    assert all(info.description for info in GatewaySettings.model_fields.values())
    assert Path(GatewaySettings.model_fields["grpc_address"].default).name


OIDC = {
    "HEADRACE_GATEWAY_OIDC_ISSUER": "https://login.example",
    "HEADRACE_GATEWAY_OIDC_AUDIENCE": "headrace",
    "HEADRACE_GATEWAY_OIDC_JWKS": "https://login.example/keys",
}


def test_tokens_are_accepted_where_an_issuer_is_set() -> None:
    assert token_rules(load()) is None
    rules = token_rules(load(**OIDC, HEADRACE_GATEWAY_OIDC_ROLES="ops=admin,all=viewer"))
    assert rules is not None
    assert (rules.issuer, rules.audience, rules.algorithms) == ("https://login.example", "headrace", {"RS256", "ES256"})
    assert rules.roles == {"ops": "admin", "all": "viewer"}
    for jwks in ("keys.json", "/etc/keys.json", "http://127.0.0.1:99/keys", "http://localhost/keys"):
        assert token_rules(load(**OIDC | {"HEADRACE_GATEWAY_OIDC_JWKS": jwks})) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUDIENCE", None),
        ("JWKS", None),
        ("JWKS", "http://login.example/keys"),
        ("JWKS", "ftp://login.example/keys"),
        ("JWKS", "file:///etc/keys"),
        ("JWKS", "https://"),
        ("ALGORITHMS", "HS256"),
        ("ALGORITHMS", "RS256,none"),
        ("ROLES", "ops=owner"),
        ("ROLES", "=admin"),
    ],
)
def test_wrong_setting_of_an_issuer_names_its_variable(name: str, value: str | None) -> None:
    variable = f"HEADRACE_GATEWAY_OIDC_{name}"
    variables = {key: text for key, text in (OIDC | {variable: value}).items() if text is not None}
    with pytest.raises(ConfigError) as refused:
        token_rules(load(**variables))
    assert variable in str(refused.value)
