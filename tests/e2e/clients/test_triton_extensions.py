"""What Triton adds to the protocol, with an unchanged tritonclient, on the mesh that all tests share."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from inference import open_inference_pb2 as oip
from inference.model_repository_pb2 import RepositoryModelLoadRequest, RepositoryModelUnloadRequest
from support import onnx_models
from support.mesh import Mesh
from support.parties import operator
from support.real_inputs import REPOSITORY

PYTHON = REPOSITORY / ".venv-triton" / "bin" / "python"
SCRIPT = REPOSITORY / "tests" / "clients" / "triton" / "call_extensions.py"
CLASSIFIER = "classifier"
SCORES = oip.ModelInferRequest(
    model_name=CLASSIFIER,
    inputs=[oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4])],
    raw_input_contents=[bytes(16)],
)


@pytest.fixture(scope="module")
def facts(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tritonclient got."""
    if not PYTHON.exists():
        pytest.fail("tritonclient's environment is missing: run `make setup-triton`")
    written = tmp_path_factory.mktemp("triton") / "facts.json"
    with grpc.insecure_channel(mesh.grpc) as channel:
        owner = operator(mesh, channel).tenant().admin
        owner.push("numbers", onnx_models.identities(sorted(onnx_models.ELEMENT_TYPES.keys() - {"BYTES"})))
        owner.push("texts", onnx_models.identities(["BYTES"]))
        owner.push(CLASSIFIER, onnx_models.identity())
        ((_, key),) = owner.metadata
    done = subprocess.run(
        [PYTHON, SCRIPT, mesh.grpc, key, written],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(Path(written).read_text())


@pytest.mark.parametrize("client", ["sync", "aio", "stream", "aio_stream"])
def test_every_datatype_comes_back_bit_by_bit(client: str, facts: dict[str, Any]) -> None:
    assert facts[client] == []


def test_stream_answers_every_request_once_and_each_answer_is_its_last(facts: dict[str, Any]) -> None:
    assert facts["ids"] == list(range(30))
    assert sorted(facts["aio_ids"]) == list(range(10))
    assert facts["finals"]


def test_a_failed_request_is_answered_in_the_stream_and_leaves_it_open(facts: dict[str, Any]) -> None:
    assert facts["errors"] == ["model 'no_such_model' was not found"]


def test_a_failed_request_ends_a_stream_that_wants_a_status(facts: dict[str, Any]) -> None:
    assert facts["status"] == ["StatusCode.NOT_FOUND", "model 'no_such_model' was not found"]


def test_wanted_outputs_and_classes_are_what_comes_back(facts: dict[str, Any]) -> None:
    assert facts["outputs"] == ["z_UINT8", "z_BF16"]
    assert facts["classes"] == [["4.000000:1", "2.000000:2"], ["4.000000:3", "3.000000:2"]]


def test_configuration_describes_the_model_without_its_batch_axis(facts: dict[str, Any]) -> None:
    config = facts["config"]
    assert (config["name"], config["platform"], config["backend"]) == (CLASSIFIER, "onnxruntime_onnx", "onnxruntime")
    assert config["max_batch_size"] > 0
    assert [(tensor["name"], tensor["data_type"], tensor["dims"]) for tensor in config["input"]] == [
        ("x", "TYPE_FP32", ["4"])
    ]


def test_models_are_unloaded_and_loaded_again(facts: dict[str, Any]) -> None:
    found = facts["repository"]
    assert found["unloaded"] == [["UNAVAILABLE", "unloaded"]]
    assert found["loaded"] == [["READY", ""]]
    assert found["override"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "parameters.config" in found["override"][1]


def test_statistics_count_each_request_and_each_row(facts: dict[str, Any]) -> None:
    before, after = facts["statistics"]["before"], facts["statistics"]["after"]

    def grown(*path: str) -> int:
        def number(found: Any) -> int:
            for name in path:
                found = found.get(name, {})
            return int(found or 0)

        return number(after) - number(before)

    stages = "inference_stats"
    assert (grown(stages, "success", "count"), grown(stages, "fail", "count")) == (4, 1)
    assert (grown("inference_count"), grown("execution_count")) == (8, 4)
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert grown(stages, stage, "count") == 4
    assert grown(stages, "compute_infer", "ns") > 0
    (batch,) = [batch for batch in after["batch_stats"] if batch["batch_size"] == "2"]
    assert int(batch["compute_infer"]["count"]) >= 4
    assert int(after["last_inference"]) > 1_600_000_000_000


def test_unloading_a_model_in_use_costs_no_request(mesh: Mesh, channel: grpc.Channel) -> None:
    owner = operator(mesh, channel).tenant().admin
    owner.push(CLASSIFIER, onnx_models.identity())
    stopping = threading.Event()

    def call(_: int) -> int:
        """Calls until told to stop; each call must be answered."""
        answered = 0
        while not stopping.is_set():
            owner.infer(SCORES)
            answered += 1
        return answered

    with ThreadPoolExecutor(max_workers=4) as pool:
        callers = pool.map(call, range(4))
        try:
            for _ in range(10):
                owner(owner.inference.RepositoryModelUnload, RepositoryModelUnloadRequest(model_name=CLASSIFIER))
                owner(owner.inference.RepositoryModelLoad, RepositoryModelLoadRequest(model_name=CLASSIFIER))
        finally:
            stopping.set()
        assert min(callers) > 0
