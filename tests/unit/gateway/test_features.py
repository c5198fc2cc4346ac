"""What is switched off for a tenant is refused by name, wherever it begins, and while a stream goes on."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor_pool import Default

import headrace.gateway.v1.inference_pb2
import headrace.jobs.v1.jobs_pb2
import headrace.registry.v1.models_pb2
import inference.open_inference_pb2
from headrace.gateway.v1 import generation_pb2
from headrace.quota.internal.v1.principals_pb2 import KeyRecord, TenantRecord
from headrace.quota.v1 import tenants_pb2
from headrace_common.errors import HeadraceError, TenantError
from headrace_common.features import FEATURE_KEY, FEATURES, switches
from headrace_common.principal import Principal
from headrace_common.testing import FakeClock
from headrace_gateway.features import FEATURE_OF, Features
from headrace_gateway.identity import Identity
from headrace_gateway.inference.call import Caller
from headrace_gateway.policy import Access
from headrace_gateway.principal_table import PrincipalTable
from headrace_gateway.stream_access import StreamAccess
from inference.open_inference_pb2 import ModelInferRequest
from support.gateway_core import GatewayCore
from support.generated_texts import GENERATES

CONTRACTS = (
    headrace.gateway.v1.inference_pb2,
    headrace.jobs.v1.jobs_pb2,
    headrace.registry.v1.models_pb2,
    inference.open_inference_pb2,
)
KEY = "hr_00000000_" + "k" * 43
CALL = (("x-api-key", KEY),)


def tenant(**switched: str) -> TenantRecord:
    return TenantRecord(tenant_id="acme", status=tenants_pb2.TENANT_STATUS_ACTIVE, features=switched)


def table(**switched: str) -> PrincipalTable:
    made = PrincipalTable()
    digest = hashlib.sha256(KEY.encode()).digest()
    key = KeyRecord(key_id="k", tenant_id="acme", key_sha256=digest, roles=[tenants_pb2.ROLE_USER])
    made.replace([tenant(**switched)], [key])
    return made


def who(known: PrincipalTable) -> Identity:
    return Identity(table=known, clock=FakeClock(), community=False)


def refused(error: HeadraceError) -> tuple[str, str, str]:
    return error.reason, error.entry.grpc, str(error.context["feature"])


def test_every_feature_is_asked_for_somewhere() -> None:
    named_by_fronts = {"http", "openai", "batch"}
    asked_by_the_handler = {"generate"}
    assert set(FEATURE_OF.values()) | named_by_fronts | asked_by_the_handler == set(FEATURES)


def test_every_feature_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "features.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(FEATURES)


def test_methods_of_features_are_those_of_contracts() -> None:
    assert {module.DESCRIPTOR.package for module in CONTRACTS}
    for path in FEATURE_OF:
        service, _, method = path.removeprefix("/").partition("/")
        assert method in Default().FindServiceByName(service).methods_by_name


def test_only_pairs_of_features_are_switches() -> None:
    assert switches({"feature.http": "off", "team": "ml", "features": "x"}) == {"http": "off"}


def test_what_is_not_switched_off_is_on() -> None:
    features = Features(table=table(http="on", openai="off"))
    features.require("http", "acme")
    features.require("batch", "acme")
    features.require("openai", "somebody-else")
    with pytest.raises(TenantError) as caught:
        features.require("openai", "acme")
    assert refused(caught.value) == ("FEATURE_DISABLED", "PERMISSION_DENIED", "openai")


def test_switch_counts_until_the_tenant_changes_again_and_goes_with_a_snapshot() -> None:
    known = table(http="off")
    known.apply([tenant()], [])
    Features(table=known).require("http", "acme")
    known.apply([tenant(http="off")], [])
    known.replace([], [])
    Features(table=known).require("http", "acme")


@pytest.mark.parametrize(
    ("named", "feature"),
    [
        ((), None),
        (("http",), None),
        (("http,openai",), "openai"),
        (("openai",), "openai"),
        (("http", "openai"), "openai"),
        (("batch,nothing,", "x" * 9_000), None),
    ],
)
def test_call_is_refused_if_one_of_the_features_that_it_names_is_off(
    named: tuple[str, ...], feature: str | None
) -> None:
    metadata = (*CALL, *((FEATURE_KEY, value) for value in named))
    identity = who(table(openai="off"))
    if feature is None:
        assert identity.authenticate(metadata).tenant_id == "acme"
        return
    with pytest.raises(TenantError) as caught:
        identity.authenticate(metadata)
    assert refused(caught.value) == ("FEATURE_DISABLED", "PERMISSION_DENIED", feature)


def test_strangers_learn_of_no_feature() -> None:
    with pytest.raises(HeadraceError) as caught:
        who(table(http="off")).authenticate((("x-api-key", "nobody"), (FEATURE_KEY, "http")))
    assert caught.value.reason == "CREDENTIAL_UNKNOWN"


@pytest.mark.parametrize(("method", "named"), [("stream", ()), (None, ((FEATURE_KEY, "http"),))])
async def test_stream_ends_when_its_feature_is_switched_off(
    method: str | None, named: tuple[tuple[str, str], ...]
) -> None:
    known = table()
    access = StreamAccess(identity=who(known), features=Features(table=known), demand=Access.USER, feature=method)
    principal = Principal(tenant_id="acme", roles=frozenset({"user"}), key_id="k", subject="key:k")
    watching = asyncio.ensure_future(access.watch((*CALL, *named), principal))
    known.apply([tenant(stream="off", http="off")], [])
    with pytest.raises(TenantError) as caught:
        await watching
    assert refused(caught.value)[0] == "FEATURE_DISABLED"


def begin(core: GatewayCore, *, generate: bool) -> HeadraceError | None:
    handler, nothing = core.handler, lambda *_: None
    caller = Caller("acme", "r", "", 30.0)
    try:
        if generate:
            request = generation_pb2.GenerateRequest(model_name="m", text="x")
            handler.generate(request.SerializeToString(), caller, nothing, nothing)
        else:
            request = ModelInferRequest(model_name="m").SerializeToString()
            handler.begin(request, caller, nothing, sink=nothing)
    except HeadraceError as error:
        return error
    return None


@pytest.mark.parametrize("generate", [True, False], ids=["Generate", "ModelStreamInfer"])
def test_no_model_generates_by_whatever_way_where_generation_is_off(generate: bool) -> None:
    core = GatewayCore()
    core.join().loaded(core.register("m", manifest=GENERATES))
    core.principals.apply([tenant(generate="off")], [])
    error = begin(core, generate=generate)
    assert error is not None
    assert refused(error) == ("FEATURE_DISABLED", "PERMISSION_DENIED", "generate")
    core.principals.apply([tenant()], [])
    assert begin(core, generate=generate) is None
