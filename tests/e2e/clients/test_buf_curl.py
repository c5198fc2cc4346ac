"""Real models through the mesh with `buf curl`, which knows nothing but what reflection tells it."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from inference.open_inference_pb2 import ModelInferResponse
from support.buf_curl import buf_curl, documents
from support.mesh import Mesh
from support.real_inputs import FileCase, SpeechCase

TOLERANCE = 1e-5
FRAMES = 12
# The public surface; whatever else reflection lists would be an internal service on the public port.
SERVICES = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "headrace.gateway.v1.InferenceService",
    "headrace.gateway.v1.MeshService",
    "headrace.quota.v1.AuditService",
    "headrace.quota.v1.QuotaService",
    "headrace.quota.v1.TenantService",
    "headrace.quota.v1.UsageService",
    "headrace.registry.v1.ModelService",
    "inference.GRPCInferenceService",
}


def _infer(mesh: Mesh, request: dict[str, Any], folder: Path) -> dict[str, NDArray[np.float32]]:
    body = folder / "request.json"
    body.write_text(json.dumps(request))
    url = f"http://{mesh.grpc}/inference.GRPCInferenceService/ModelInfer"
    answer = json_format.Parse(buf_curl(mesh, "--data", f"@{body}", url), ModelInferResponse())
    return {
        output.name: np.frombuffer(raw, np.float32).reshape(output.shape)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def _base64(values: NDArray[Any]) -> str:
    return b64encode(values.tobytes()).decode()


def test_reflection_lists_the_public_services_and_no_internal_one(mesh: Mesh) -> None:
    listed = set(buf_curl(mesh, "--list-services", f"http://{mesh.grpc}").split())
    assert listed >= {"inference.GRPCInferenceService", "headrace.registry.v1.ModelService"}
    assert listed <= SERVICES


def test_buf_curl_shows_why_a_call_on_a_packed_stream_failed(mesh: Mesh) -> None:
    calls = {"calls": [{"id": 7, "infer": {"request": {"model_name": "absent"}}}]}
    printed = buf_curl(
        mesh, "--data", json.dumps(calls), f"http://{mesh.grpc}/headrace.gateway.v1.InferenceService/Stream"
    )
    messages = documents(printed)
    assert messages[0]["limits"]["callsMax"] == 1024
    (answer,) = (answer for message in messages for answer in message.get("answers", []))
    assert (answer["id"], answer["error"]["message"]) == ("7", "model 'absent' was not found")
    assert [detail["reason"] for detail in answer["error"]["details"]] == ["MODEL_NOT_FOUND"]


def test_buf_curl_gets_the_scores_and_labels_of_real_files(
    mesh: Mesh, file_cases: list[FileCase], class_labels: list[str], tmp_path: Path
) -> None:
    assert len(file_cases) >= 30
    for case in file_cases[:30]:
        tensor = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048]}
        request = {"modelName": "magika", "inputs": [tensor], "rawInputContents": [_base64(case.features)]}
        scores = _infer(mesh, request, tmp_path)["target_label"][0]
        np.testing.assert_allclose(scores, case.scores, rtol=0, atol=TOLERANCE, err_msg=str(case.path))
        assert class_labels[int(scores.argmax())] == case.label, case.path


def test_buf_curl_hears_the_conversation_as_it_sounds_in_process(
    mesh: Mesh, speech_cases: list[SpeechCase], tmp_path: Path
) -> None:
    # People in this recording begin to speak after 6.7 seconds; the state before that is taken from there.
    first = 205
    state = speech_cases[first - 1].state
    for case in speech_cases[first : first + FRAMES]:
        tensors = [
            {"name": "input", "datatype": "FP32", "shape": case.frame.shape},
            {"name": "state", "datatype": "FP32", "shape": state.shape},
            {"name": "sr", "datatype": "INT64", "shape": []},
        ]
        raw = [_base64(case.frame), _base64(state), _base64(np.array(16000, np.int64))]
        answer = _infer(mesh, {"modelName": "silero_vad", "inputs": tensors, "rawInputContents": raw}, tmp_path)
        np.testing.assert_allclose(answer["output"], case.output, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(answer["stateN"], case.state, rtol=0, atol=TOLERANCE)
        state = answer["stateN"]
    heard = [float(case.output[0, 0]) for case in speech_cases[first : first + FRAMES]]
    assert min(heard) < 0.35
    assert max(heard) > 0.5
