"""What an operator switches off for a tenant is refused over HTTP and gRPC, and all else goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from headrace.gateway.v1 import inference_pb2
from headrace.registry.v1 import models_pb2
from headrace_common.rpc_status import from_rpc_error
from inference import open_inference_pb2 as oip
from support import onnx_models
from support.mesh import Mesh
from support.parties import Party, Tenant, operator, until

TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
INFER = {"modelId": "same", "inputs": {"x": {"shape": [1, 4], "dtype": "FP32", "data": [1, 2, 3, 4]}}}
OFF = "is switched off"
CHAT = {"model": "same", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def tenant(mesh: Mesh) -> Iterator[Tenant]:
    with grpc.insecure_channel(mesh.grpc) as channel:
        made = operator(mesh, channel).tenant()
        made.admin.push("same", onnx_models.identity())
        yield made


def client_of(mesh: Mesh, party: Party, **headers: str) -> httpx.Client:
    assert mesh.http is not None
    return httpx.Client(base_url=mesh.http, headers={**dict(party.metadata), **headers}, timeout=60)


@pytest.fixture
def http(mesh: Mesh, tenant: Tenant) -> Iterator[httpx.Client]:
    with client_of(mesh, tenant.admin) as client:
        yield client


@pytest.fixture
def operators(mesh: Mesh, channel: grpc.Channel) -> Iterator[httpx.Client]:
    with client_of(mesh, operator(mesh, channel)) as client:
        yield client


def told(answer: httpx.Response) -> tuple[int, str]:
    document = answer.json()
    return answer.status_code, document["errorCode"]


def switch(operators: httpx.Client, tenant: Tenant, **features: str | None) -> None:
    pairs = {f"feature.{name}": value for name, value in features.items()}
    changed = operators.patch(f"/v1/tenants/{tenant.id}", json={"metadata": pairs})
    assert changed.status_code == 200, changed.text
    metadata = changed.json()["metadata"]
    assert {key: metadata.get(key) for key in pairs} == pairs


def reason(call: Any) -> str | None:
    try:
        call()
    except grpc.RpcError as error:
        return from_rpc_error(error).reason
    return None


def test_features_of_http_are_switched_off_one_by_one(
    http: httpx.Client, operators: httpx.Client, tenant: Tenant
) -> None:
    asked = {
        "batch": lambda: http.post("/v1/infer/batch", json={"requests": [INFER]}),
        "openai": lambda: http.get("/openai/v1/models"),
        "stream": lambda: http.post("/v1/infer/stream", json=INFER),
        "upload": lambda: http.post("/v1/models", data={"name": "x"}, files={"file": ("x.onnx", b"x")}),
    }
    for ask in asked.values():
        assert OFF not in ask().text
    switch(operators, tenant, **dict.fromkeys(asked, "off"))
    for feature, ask in asked.items():
        until(lambda ask=ask: OFF in ask().text)
        assert feature in ask().text
    assert http.post("/v1/infer", json=INFER).status_code == 200
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 403
    assert asked["openai"]().status_code == asked["upload"]().status_code == 403
    switch(operators, tenant, **dict.fromkeys(asked, None))
    for ask in asked.values():
        until(lambda ask=ask: OFF not in ask().text)


def test_tenant_without_http_is_served_over_grpc(http: httpx.Client, operators: httpx.Client, tenant: Tenant) -> None:
    assert http.post("/v1/infer", json=INFER).status_code == 200
    switch(operators, tenant, http="off")
    # Also what goes by the packed stream that is open by now.
    until(lambda: http.post("/v1/infer", json=INFER).status_code == 403)
    assert http.post("/v2/models/same/infer", json={"inputs": [TENSOR]}).status_code == 403
    assert told(http.get("/v1/tenant")) == (403, "FEATURE_DISABLED")
    request = oip.ModelInferRequest(model_name="same")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    assert tenant.admin.infer(request).raw_output_contents == [bytes(16)]
    switch(operators, tenant, http="on")
    until(lambda: http.post("/v1/infer", json=INFER).status_code == 200)


def test_methods_of_a_feature_are_refused_over_grpc(operators: httpx.Client, tenant: Tenant) -> None:
    admin = tenant.admin
    batch = lambda: admin(admin.packed.InferBatch, inference_pb2.InferBatchRequest())  # noqa: E731
    stream = lambda: list(  # noqa: E731
        admin(admin.inference.ModelStreamInfer, iter([oip.ModelInferRequest(model_name="same")]))
    )
    upload = lambda: admin.upload([models_pb2.UploadVersionRequest()])  # noqa: E731
    switch(operators, tenant, batch="off", stream="off", upload="off")
    for call in (batch, stream, upload):
        until(lambda call=call: reason(call) == "FEATURE_DISABLED")
    switch(operators, tenant, batch=None, stream=None, upload=None)
    for call in (batch, stream, upload):
        until(lambda call=call: reason(call) != "FEATURE_DISABLED")


def test_features_are_the_operators_to_switch_and_must_exist(
    http: httpx.Client, operators: httpx.Client, tenant: Tenant
) -> None:
    path = f"/v1/tenants/{tenant.id}"
    assert told(http.patch(path, json={"metadata": {"feature.http": "off"}}))[0] == 403
    unknown = operators.patch(path, json={"metadata": {"feature.htpp": "off"}})
    assert unknown.status_code == 400
    assert "http" in unknown.json()["message"]
    for body in ({}, {"metadata": {"feature.http": "no"}}, {"metadata": []}, {"status": "x"}, {"tier": 7}):
        assert operators.patch(path, json=body).status_code == 400, body
    assert operators.patch("/v1/tenants/nobody-here", json={"tier": "x"}).status_code == 404
    changed = operators.patch(path, json={"displayName": "New", "isolation": "ISOLATION_DEDICATED"}).json()
    assert (changed["displayName"], changed["isolation"]) == ("New", "ISOLATION_DEDICATED")
    changed = operators.patch(path, json={"displayName": None, "isolation": "ISOLATION_SHARED"}).json()
    assert (changed["displayName"], changed["isolation"]) == (tenant.id, "ISOLATION_SHARED")


def test_named_tenant_must_be_the_callers_own(mesh: Mesh, tenant: Tenant) -> None:
    with client_of(mesh, tenant.admin, **{"X-Tenant-ID": tenant.id}) as own:
        assert own.get("/v1/tenant").json()["id"] == tenant.id
    with client_of(mesh, tenant.admin, **{"X-Tenant-ID": "default"}) as other:
        assert told(other.get("/v1/tenant")) == (403, "TENANT_MISMATCH")
        assert told(other.post("/v1/infer", json=INFER)) == (403, "TENANT_MISMATCH")


def test_key_is_rotated_and_both_work_for_a_while(http: httpx.Client, mesh: Mesh) -> None:
    made = http.post("/v1/keys", json={"roles": ["ROLE_VIEWER"]}).json()
    rotated = http.post(f"/v1/keys/{made['apiKey']['id']}/rotate", json={"overlap": "3600s"})
    assert rotated.status_code == 201
    assert rotated.headers["cache-control"] == "no-store"
    document = rotated.json()
    assert document["apiKey"]["rotatedFrom"] == made["apiKey"]["id"] == document["former"]["id"]
    assert document["former"]["expireTime"]
    for key in (made["key"], document["key"]):
        with httpx.Client(base_url=mesh.http or "", headers={"x-api-key": key}, timeout=60) as client:
            until(lambda client=client: client.get("/v1/tenant").status_code == 200)
    assert http.post("/v1/keys/nothing/rotate").status_code == 400
