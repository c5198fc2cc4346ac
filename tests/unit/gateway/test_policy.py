"""Every method that is served has a policy; nothing else can be called."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from headrace_common.errors import AuthError
from headrace_common.principal import Principal
from headrace_common.reflection import REFLECTION_SERVICES
from headrace_gateway.policy import INFERENCE, MESH, MODELS, TENANTS, Access, policy, require
from headrace_gateway.public_services import PUBLIC_SERVICES
from inference import open_inference_pb2 as oip

assert oip.DESCRIPTOR is not None


def contract_methods() -> set[str]:
    pool = descriptor_pool.Default()
    return {
        f"/{service}/{method.name}" for service in PUBLIC_SERVICES for method in pool.FindServiceByName(service).methods
    }


def principal(*roles: str, tenant_id: str = "acme") -> Principal:
    return Principal(tenant_id=tenant_id, roles=frozenset(roles))


def test_policy_and_contracts_name_the_same_methods() -> None:
    assert set(policy(reflection=None)) == contract_methods()


def test_reflection_has_a_policy_only_where_it_is_served() -> None:
    methods = {f"/{service}/ServerReflectionInfo" for service in REFLECTION_SERVICES}
    assert set(policy(reflection=Access.VIEWER)) == contract_methods() | methods
    assert not methods & set(policy(reflection=None))


def test_only_liveness_and_readiness_need_no_key() -> None:
    keyless = {method for method, access in policy(reflection=None).items() if access is Access.PUBLIC}
    assert keyless == {f"/{INFERENCE}/ServerLive", f"/{INFERENCE}/ServerReady"}


@pytest.mark.parametrize(
    ("method", "least"),
    [
        (f"/{INFERENCE}/ModelInfer", "user"),
        (f"/{INFERENCE}/ModelReady", "viewer"),
        (f"/{INFERENCE}/RepositoryModelLoad", "model_admin"),
        (f"/{MODELS}/UploadVersion", "model_admin"),
        (f"/{MODELS}/ListModels", "viewer"),
        (f"/{TENANTS}/RevokeApiKey", "admin"),
        (f"/{MESH}/WatchRunners", "viewer"),
    ],
)
def test_a_role_includes_the_ones_before_it_and_no_other(method: str, least: str) -> None:
    demand = policy(reflection=None)[method]
    order = ["viewer", "user", "model_admin", "admin"]
    for role in order:
        if order.index(role) >= order.index(least):
            require(demand, principal(role))
        else:
            with pytest.raises(AuthError) as caught:
                require(demand, principal(role))
            assert (caught.value.reason, caught.value.context["required"]) == ("ROLE_FORBIDDEN", least)


@pytest.mark.parametrize("roles", [(), ("service",), ("Admin",), ("root", "operator")])
def test_unknown_roles_allow_nothing(roles: tuple[str, ...]) -> None:
    for demand in Access:
        if demand is not Access.PUBLIC:
            with pytest.raises(AuthError):
                require(demand, principal(*roles, tenant_id="default"))


def test_operators_are_admins_of_the_default_tenant_alone() -> None:
    require(Access.OPERATOR, principal("admin", tenant_id="default"))
    for other in (principal("admin"), principal("model_admin", tenant_id="default")):
        with pytest.raises(AuthError):
            require(Access.OPERATOR, other)
