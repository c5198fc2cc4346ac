"""Open Inference REST beside gRPC, and what each of its routes says to requests that can't be right."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from inference import open_inference_pb2 as oip
from support import onnx_models
from support.mesh import Mesh
from support.parties import Party, operator

LENGTH = "inference-header-content-length"
BOMB = gzip.compress(bytes(65 << 20))
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.fixture(scope="module")
def party(mesh: Mesh) -> Iterator[Party]:
    """An admin of a tenant with the model `m`."""
    with grpc.insecure_channel(mesh.grpc) as channel:
        owner = operator(mesh, channel).tenant().admin
        owner.push("m", onnx_models.identity())
        yield owner


@pytest.fixture(scope="module")
def client(mesh: Mesh, party: Party) -> Iterator[httpx.Client]:
    assert mesh.http is not None
    with httpx.Client(base_url=mesh.http, headers=dict(party.metadata), timeout=60) as client:
        yield client


def test_binary_answers_are_those_of_grpc(party: Party, client: httpx.Client) -> None:
    values = np.random.default_rng(1).standard_normal((3, 4), np.float32)
    request = oip.ModelInferRequest(model_name="m", id="r-1", raw_input_contents=[values.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=values.shape)
    by_grpc = party.infer(request)
    size = values.nbytes
    text = (
        b'{"id": "r-1", "parameters": {"binary_data_output": true}, "inputs": [{"name": "x", "datatype": "FP32", '
        b'"shape": [3, 4], "parameters": {"binary_data_size": %d}}]}' % size
    )
    by_rest = client.post(
        "/v2/models/m/versions/1/infer", content=text + values.tobytes(), headers={LENGTH: str(len(text))}
    )
    length = int(by_rest.headers[LENGTH])
    assert by_rest.headers["content-type"] == "application/octet-stream"
    assert by_rest.content[length:] == by_grpc.raw_output_contents[0] == values.tobytes()
    assert by_rest.content[:length].startswith(b'{"model_name":"m","model_version":"1","id":"r-1","outputs":')


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/v2/models/m/versions/1/stats"]
)
def test_what_can_be_asked_is_answered(path: str, client: httpx.Client) -> None:
    answer = client.get(path, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
    assert isinstance(answer.json(), dict)


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v2/models/none", {}, 404),
        ("GET", "/v2/models/none/ready", {}, 404),
        ("GET", "/v2/models/m/versions/9/config", {}, 404),
        ("GET", "/v2/models/m/versions/x/stats", {}, 400),
        ("GET", "/v2/models/m:1/versions/1", {}, 400),
        ("GET", "/v2/models/:/ready", {}, 400),
        ("GET", "/v2/models/m/infer", {}, 405),
        ("GET", "/v2/nothing", {}, 404),
        ("GET", "/v2", {"headers": {"x-api-key": "hr_wrong"}}, 401),
        ("POST", "/v2/repository/index", {"content": b"[]"}, 400),
        ("POST", "/v2/repository/index", {"json": {"ready": 1}}, 400),
        ("POST", "/v2/repository/models/none/load", {}, 404),
        ("POST", "/v2/repository/models/m/load", {"json": {"parameters": {"config": "{}"}}}, 400),
        ("POST", "/v2/repository/models/m/unload", {"json": {"parameters": {"x": None}}}, 400),
        ("POST", "/v2/models/none/infer", {"json": ROW}, 404),
        ("POST", "/v2/models/m/infer", {}, 400),
        ("POST", "/v2/models/m/infer", {"content": b"\xff"}, 400),
        ("POST", "/v2/models/m/infer", {"json": {"inputs": []}}, 400),
        ("POST", "/v2/models/m/infer", {"json": ROW | {"outputs": [{"name": "y"}]}}, 400),
        ("POST", "/v2/models/m/infer", {"json": ROW | {"parameters": {"priority": -1}}}, 400),
        ("POST", "/v2/models/m/infer", {"json": ROW, "headers": {"content-type": "text/plain"}}, 415),
        ("POST", "/v2/models/m/infer", {"json": ROW, "headers": {LENGTH: "1000"}}, 400),
        ("POST", "/v2/models/m/infer", {"json": ROW, "headers": [(LENGTH, "96"), (LENGTH, "96")]}, 400),
        ("POST", "/v2/models/m/infer", {"json": ROW, "headers": {"content-encoding": "br"}}, 415),
        ("POST", "/v2/models/m/infer", {"json": ROW, "headers": {"content-encoding": "gzip"}}, 400),
        ("POST", "/v2/models/m/infer", {"content": BOMB, "headers": {"content-encoding": "gzip"}}, 413),
    ],
)  # fmt: skip
def test_what_can_not_be_right_is_refused(
    method: str, path: str, options: dict[str, Any], status: int, client: httpx.Client
) -> None:
    answer = client.request(method, path, **options)
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert document.keys() == {"error"}
    assert document["error"]
    assert "x-request-id" in answer.headers
