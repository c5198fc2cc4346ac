"""What the policies of a key hide, what they refuse, and that hidden is absent, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.gateway.v1 import generation_pb2
from headrace.quota.internal.v1.principals_pb2 import KeyRecord
from headrace.quota.v1 import tenants_pb2
from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1 import models_pb2
from headrace_common.errors import HeadraceError
from headrace_common.principal import Principal
from headrace_common.rpc_status import to_status
from headrace_gateway.inference.call import Caller
from headrace_gateway.model_access import Policies, require_action, sees
from headrace_gateway.model_guard import ModelGuard
from headrace_gateway.principal_table import PrincipalTable
from inference.open_inference_pb2 import ModelInferRequest
from support.gateway_core import GatewayCore
from support.generated_texts import GENERATES

INFER, READ, WRITE = tenants_pb2.ACTION_INFER, tenants_pb2.ACTION_READ, tenants_pb2.ACTION_WRITE


def policies(*told: tuple[list[Any], list[str]]) -> Policies:
    """Policies as they come by the feed."""
    digest = bytes(32)
    record = KeyRecord(key_id="k", tenant_id="acme", key_sha256=digest)
    record.policies.extend(tenants_pb2.ResourcePolicy(actions=actions, models=models) for actions, models in told)
    table = PrincipalTable()
    table.replace([], [record])
    key = table.find(digest)
    assert key is not None
    return key.principal.policies


def may(bound: Policies, action: str, model: str) -> bool:
    try:
        require_action(bound, action, model)
    except HeadraceError as error:
        assert (error.reason, error.entry.grpc) == ("POLICY_FORBIDDEN", "PERMISSION_DENIED")
        return False
    return True


@pytest.mark.parametrize(
    ("told", "seen", "hidden"),
    [
        ((), ["", "a", "b"], []),
        ((([INFER], ["a"]),), ["a"], ["", "b", "A", "aa"]),
        ((([INFER], ["a*"]),), ["a", "ab"], ["", "ba"]),
        ((([READ], ["a"]), ([WRITE], ["b*"])), ["a", "b", "bc"], ["c", "ab"]),
        ((([INFER], []),), ["", "a"], []),
        ((([INFER], ["*"]),), ["", "a"], []),
        ((([99], ["a"]),), ["a"], ["b"]),
    ],
)
def test_models_of_any_policy_are_seen(told: Any, seen: list[str], hidden: list[str]) -> None:
    bound = policies(*told)
    assert [model for model in (*seen, *hidden) if sees(bound, model)] == seen


def test_actions_are_those_of_the_policies_that_name_the_model() -> None:
    bound = policies(([INFER], ["a", "b"]), ([WRITE, READ], ["b*"]), ([99], ["c"]))
    allowed = {model: [action for action in ("infer", "write") if may(bound, action, model)] for model in "abcd"}
    assert allowed == {"a": ["infer"], "b": ["infer", "write"], "c": [], "d": []}
    assert may((), "write", "anything")


def outcome(core: GatewayCore, model: str, bound: Policies, *, version: str = "", generate: bool = False) -> str:
    """Nothing for a call that begins, else the whole failure as a client gets it."""
    caller = Caller("acme", "r", "", 30.0, policies=bound)
    nothing: Any = lambda *_: None  # noqa: E731
    try:
        if generate:
            request = generation_pb2.GenerateRequest(model_name=model, model_version=version, text="x")
            core.handler.generate(request.SerializeToString(), caller, nothing, nothing)
        else:
            told = ModelInferRequest(model_name=model, model_version=version).SerializeToString()
            core.handler.begin(told, caller, nothing, sink=nothing)
    except HeadraceError as error:
        return to_status(error, "").SerializeToString(deterministic=True).decode(errors="replace")
    return ""


@pytest.mark.parametrize("generate", [False, True])
async def test_hidden_model_is_absent_byte_for_byte(generate: bool) -> None:
    core = GatewayCore()
    runner = core.join()
    for model in ("open", "shut"):
        runner.loaded(core.register(model, manifest=GENERATES))
    bound = policies(([INFER], ["open"]))
    assert outcome(core, "open", bound, generate=generate) == ""
    assert outcome(core, "shut", (), generate=generate) == ""
    for version in ("", "1", "7", "nonsense"):
        hidden = outcome(core, "shut", bound, version=version, generate=generate)
        absent = outcome(core, "gone", (), version=version, generate=generate)
        assert hidden == absent.replace("gone", "shut") != ""


async def test_archived_version_of_a_hidden_model_is_absent() -> None:
    core = GatewayCore()
    core.register("shut")
    version = models_pb2.Version(uid="acme/shut/1", model="shut", version=1, state=models_pb2.VERSION_STATE_ARCHIVED)
    core.catalog.apply([CatalogEntry(tenant_id="acme", version=version)])
    bound = policies(([INFER], ["open"]))
    assert "is archived" in outcome(core, "shut", (), version="1")
    assert outcome(core, "shut", bound, version="1") == outcome(core, "gone", (), version="1").replace("gone", "shut")


async def test_model_that_may_only_be_read_is_not_inferred_with() -> None:
    core = GatewayCore()
    core.join().loaded(core.register("m"))
    assert "POLICY_FORBIDDEN" in outcome(core, "m", policies(([READ, WRITE], ["m"])))


REQUESTS: dict[str, Any] = {
    "GetModel": models_pb2.GetModelRequest(name="shut"),
    "GetVersion": models_pb2.GetVersionRequest(model="shut", version=1),
    "ListVersions": models_pb2.ListVersionsRequest(model="shut"),
    "DownloadVersion": models_pb2.DownloadVersionRequest(model="shut"),
    "ArchiveVersion": models_pb2.ArchiveVersionRequest(model="shut"),
    "CreateModel": models_pb2.CreateModelRequest(name="shut"),
    "UploadVersion": models_pb2.UploadVersionRequest(header=models_pb2.UploadHeader(model="shut")),
    "ListModels": models_pb2.ListModelsRequest(),
}


def bound_principal(*told: tuple[list[Any], list[str]]) -> Principal:
    return Principal(tenant_id="acme", roles=frozenset({"model_admin"}), policies=policies(*told))


def refusal(method: str, who: Principal) -> str:
    try:
        ModelGuard(method).check(who, REQUESTS[method].SerializeToString())
    except HeadraceError as error:
        return error.reason
    return ""


def test_every_model_rpc_has_a_guard() -> None:
    methods = models_pb2.DESCRIPTOR.services_by_name["ModelService"].methods
    assert {method.name for method in methods} == set(REQUESTS)
    with pytest.raises(ValueError, match="has no guard"):
        ModelGuard("PromoteVersion")


@pytest.mark.parametrize("method", REQUESTS)
def test_guard_hides_refuses_and_lets_through(method: str) -> None:
    makes = method in {"CreateModel", "UploadVersion"}
    hidden = "" if method == "ListModels" else "POLICY_FORBIDDEN" if makes else "MODEL_NOT_FOUND"
    assert refusal(method, bound_principal(([INFER, READ, WRITE], ["open"]))) == hidden
    writes = makes or method == "ArchiveVersion"
    assert refusal(method, bound_principal(([READ], ["shut"]))) == ("POLICY_FORBIDDEN" if writes else "")
    assert refusal(method, bound_principal(([WRITE], ["sh*"]))) == ""
    assert refusal(method, bound_principal()) == ""


def test_malformed_request_of_a_bound_key_is_refused() -> None:
    with pytest.raises(HeadraceError) as caught:
        ModelGuard("GetModel").check(bound_principal(([READ], ["a"])), b"\xff\xff")
    assert caught.value.reason == "REQUEST_MALFORMED"


def test_listing_leaves_out_what_is_hidden_and_goes_on() -> None:
    page = models_pb2.ListModelsResponse(
        models=[models_pb2.Model(name=name) for name in ("open", "shut", "open-2")], next_page_token="more"
    )
    guard = ModelGuard("ListModels")
    shown = models_pb2.ListModelsResponse.FromString(
        guard.shown(bound_principal(([INFER], ["open*"])), page.SerializeToString())
    )
    assert ([model.name for model in shown.models], shown.next_page_token) == (["open", "open-2"], "more")
    assert guard.shown(bound_principal(), page.SerializeToString()) == page.SerializeToString()
