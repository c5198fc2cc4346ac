"""Every public RPC and every REST route, asked by one tenant about what is another's: as if it had never been.

Which RPCs there are, the descriptors say; which of their fields name something, their names. Each call is made twice,
with what another tenant has and with what nobody has, and both must end the same, byte for byte but for those names.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from headrace_gateway.http.app import ROUTERS
from headrace_gateway.public_services import PUBLIC_SERVICES
from support import onnx_models
from support.folders import open_folder
from support.mesh import Mesh, running_mesh
from support.parties import Tenant, operator
from support.soak import Measured

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Names:
    """What one may name."""

    tenant: str
    model: str
    key: str

    def hidden_in(self, text: str) -> str:
        for name in (self.tenant, self.model, self.key):
            text = text.replace(name, "?" * 8)
        return text


# What its own tenant may have a name for, whoever else has it: these make something, or say who may.
MAKES = {"CreateModel", "UploadVersion"}
# Only operators may, and nobody else learns of what: refused by the role alone.
BY_ROLE = {"CreateTenant", "DrainRunner", "SetPlan", "DeletePlan"}
# Plans are the mesh's: their names are no tenant's.
NO_TENANTS = {"GetPlan"}


def fields(kind: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldDescriptor]]:
    """Texts that a request may have, also in messages within."""
    for field in kind.fields:
        inner = field.message_type
        if inner is not None and not field.is_repeated and len(path) < 2 and inner.file.package != "google.protobuf":
            yield from fields(inner, (*path, field.name))
        elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING and not field.is_repeated:
            yield (*path, field.name), field


def named(method: MethodDescriptor, names: Names) -> Message | None:
    """A request that names something wherever one can; None where there is nothing to name."""
    request = GetMessageClass(method.input_type)()
    found = False
    for path, field in fields(method.input_type):
        value = None
        if field.name in {"model", "model_name"} or path == ("name",):
            value = names.model
        elif field.name == "tenant_id" or path == ("tenant", "id"):
            value = names.tenant
        elif path == ("id",) and method.containing_service.full_name.startswith("headrace.quota"):
            value = names.key if "ApiKey" in method.name else names.tenant
        if value is not None:
            found = True
            target: Any = request
            for part in path[:-1]:
                target = getattr(target, part)
            setattr(target, path[-1], value)
    if found and "version" in method.input_type.fields_by_name:
        one: Any = request
        version = method.input_type.fields_by_name["version"]
        one.version = 1 if version.cpp_type == FieldDescriptor.CPPTYPE_INT64 else "1"
    if method.name == "UpdateTenant":
        request.update_mask.paths.append("tier")  # pyright: ignore[reportAttributeAccessIssue]
    return request if found else None


def outcome(channel: grpc.Channel, method: MethodDescriptor, request: Message, tenant: Tenant) -> tuple[str, str]:
    """Status, and all else that the caller gets but the request's id."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    raw = request.SerializeToString()
    options: dict[str, Any] = {"metadata": tenant.admin.metadata, "timeout": TIMEOUT_S}
    try:
        match method.client_streaming, method.server_streaming:
            case False, False:
                answer: Any = channel.unary_unary(path)(raw, **options)
            case True, False:
                answer = channel.stream_unary(path)(iter([raw]), **options)
            case False, True:
                answer = b"".join(channel.unary_stream(path)(raw, **options))
            case _:
                answer = b"".join(channel.stream_stream(path)(iter([raw]), **options))
    except grpc.RpcError as error:
        failed: Any = error
        trailing = sorted(pair for pair in failed.trailing_metadata() or () if pair[0] != "x-request-id")
        return failed.code().name, f"{failed.details()} {trailing}"
    return "OK", repr(answer)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A mesh for both proofs."""
    with open_folder() as folder, running_mesh(folder, "--runners", "1", "--no-samples", http=True) as running:
        yield running


@pytest.fixture
def parties(mesh: Mesh) -> Iterator[tuple[grpc.Channel, Tenant, Names]]:
    with grpc.insecure_channel(mesh.grpc) as channel:
        admin = operator(mesh, channel)
        theirs, caller = admin.tenant(), admin.tenant()
        model = f"model-{secrets.token_hex(6)}"
        theirs.admin.push(model, onnx_models.identity())
        yield channel, caller, Names(theirs.id, model, theirs.key_id)


def absent_like(names: Names) -> Names:
    tenant, model = f"tenant-{secrets.token_hex(6)}", f"model-{secrets.token_hex(6)}"
    assert (len(tenant), len(model)) == (len(names.tenant), len(names.model))
    return Names(tenant, model, str(uuid.uuid4()))


def test_every_rpc_answers_of_what_is_anothers_as_of_what_is_not(
    parties: tuple[grpc.Channel, Tenant, Names], measured: Measured
) -> None:
    channel, caller, theirs = parties
    nobodys = absent_like(theirs)
    pool, asked, wrong = Default(), 0, list[str]()
    methods = [method for service in PUBLIC_SERVICES for method in pool.FindServiceByName(service).methods]
    # What makes a model of that name comes last: then it is the caller's own.
    for method in sorted(methods, key=lambda method: method.name in MAKES):
        foreign, absent = named(method, theirs), named(method, nobodys)
        if foreign is None or absent is None or method.name in NO_TENANTS:
            continue
        asked += 1
        code, text = outcome(channel, method, foreign, caller)
        other, other_text = outcome(channel, method, absent, caller)
        if method.name in MAKES:
            alike, known = code == other, True
        else:
            alike = (code, theirs.hidden_in(text)) == (other, nobodys.hidden_in(other_text))
            # A stream tells of a call's failure in its message.
            known = code == "NOT_FOUND" or (code == "OK" and "NOT_FOUND" in text) or method.name in BY_ROLE
        if not alike or not known:
            wrong.append(f"{method.full_name}: {code} {text[:300]} | {other} {other_text[:300]}")
    assert not wrong, "\n".join(wrong)
    assert asked >= 25
    measured("tenant matrix, gRPC", "foreign = absent, byte for byte", f"{asked} RPCs alike")


def test_every_route_answers_of_what_is_anothers_as_of_what_is_not(
    mesh: Mesh, parties: tuple[grpc.Channel, Tenant, Names], measured: Measured
) -> None:
    _, caller, theirs = parties
    nobodys = absent_like(theirs)
    assert mesh.http is not None
    asked, wrong = 0, list[str]()
    with httpx.Client(base_url=mesh.http, headers=dict(caller.admin.metadata), timeout=TIMEOUT_S) as client:

        def answer(method: str, path: str, names: Names) -> tuple[int, str]:
            url = path.format(tenant=names.tenant, model=names.model, key_id=names.key, version="1", path="model.onnx")
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
            if "infer" in path:
                body: Any = {"inputs": [tensor]}
            elif "generate" in path:
                body = {"text_input": "x"}
            else:
                body = {"tier": "gold"} if method == "PATCH" else {}
            sent = client.request(
                method,
                url,
                headers={"x-request-id": "same"},
                json=body if method in {"POST", "PUT", "PATCH"} else None,
            )
            document = sent.text
            if sent.headers.get("content-type", "").startswith("application/json") and "timestamp" in document:
                told = sent.json()
                told.pop("timestamp", None)
                document = repr(told)
            return sent.status_code, names.hidden_in(document)

        for router in ROUTERS:
            for route in router.routes:
                path: str = route.path  # pyright: ignore[reportAttributeAccessIssue]
                if not any(place in path for place in ("{tenant}", "{model}", "{key_id}")):
                    continue
                for method in route.methods:  # pyright: ignore[reportAttributeAccessIssue]
                    asked += 1
                    foreign, absent = answer(method, path, theirs), answer(method, path, nobodys)
                    if foreign != absent or foreign[0] not in {404, 400}:
                        wrong.append(f"{method} {path}: {foreign} | {absent}")
    assert not wrong, "\n".join(wrong)
    assert asked >= 30
    measured("tenant matrix, REST", "foreign = absent, byte for byte", f"{asked} routes alike")
