"""Real models through the mesh with generated stubs, against ONNX Runtime in this process."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelReadyRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.mesh import Mesh
from support.real_inputs import FileCase, SpeechCase, batch_scores

Tensor = ModelInferRequest.InferInputTensor
TOLERANCE = 1e-5


def _file_request(features: NDArray[np.int32]) -> ModelInferRequest:
    return ModelInferRequest(
        model_name="magika",
        inputs=[Tensor(name="bytes", datatype="INT32", shape=features.shape)],
        raw_input_contents=[features.tobytes()],
    )


def _frame_request(frame: NDArray[np.float32], state: bytes) -> ModelInferRequest:
    return ModelInferRequest(
        model_name="silero_vad",
        inputs=[
            Tensor(name="input", datatype="FP32", shape=frame.shape),
            Tensor(name="state", datatype="FP32", shape=[2, 1, 128]),
            Tensor(name="sr", datatype="INT64", shape=[]),
        ],
        raw_input_contents=[frame.tobytes(), state, (16000).to_bytes(8, "little")],
    )


def _output(answer: ModelInferResponse, name: str) -> NDArray[np.float32]:
    index = [output.name for output in answer.outputs].index(name)
    assert answer.outputs[index].datatype == "FP32"
    return np.frombuffer(answer.raw_output_contents[index], np.float32).reshape(answer.outputs[index].shape)


def test_each_real_file_gets_the_scores_and_the_label_that_it_gets_in_process(
    mesh: Mesh, stub: GRPCInferenceServiceStub, file_cases: list[FileCase], class_labels: list[str]
) -> None:
    assert len(file_cases) >= 30
    for case in file_cases:
        answer = stub.ModelInfer(_file_request(case.features[None]), metadata=mesh.metadata, timeout=60)
        scores = _output(answer, "target_label")
        np.testing.assert_allclose(scores[0], case.scores, rtol=0, atol=TOLERANCE, err_msg=str(case.path))
        assert class_labels[int(scores[0].argmax())] == case.label, case.path


def test_files_in_one_batch_get_the_scores_and_labels_of_the_same_batch_in_process(
    mesh: Mesh,
    stub: GRPCInferenceServiceStub,
    file_cases: list[FileCase],
    file_features: NDArray[np.int32],
    class_labels: list[str],
) -> None:
    answer = stub.ModelInfer(_file_request(file_features), metadata=mesh.metadata, timeout=60)
    scores = _output(answer, "target_label")
    # The model itself answers a row of a big batch up to 2e-4 off what it answers the row alone.
    np.testing.assert_allclose(scores, batch_scores(file_features), rtol=0, atol=TOLERANCE)
    assert [class_labels[index] for index in scores.argmax(axis=1)] == [case.label for case in file_cases]


def test_typed_contents_give_the_same_answer_as_raw_bytes(
    mesh: Mesh, stub: GRPCInferenceServiceStub, file_cases: list[FileCase]
) -> None:
    features = file_cases[0].features
    contents = InferTensorContents(int_contents=features.tolist())
    request = ModelInferRequest(
        model_name="magika",
        id="typed",
        inputs=[Tensor(name="bytes", datatype="INT32", shape=[1, 2048], contents=contents)],
    )
    answer = stub.ModelInfer(request, metadata=mesh.metadata, timeout=60)
    assert answer.id == "typed"
    np.testing.assert_allclose(_output(answer, "target_label")[0], file_cases[0].scores, rtol=0, atol=TOLERANCE)


def test_conversation_frame_by_frame_with_its_state_on_the_wire_sounds_the_same_as_in_process(
    mesh: Mesh, stub: GRPCInferenceServiceStub, speech_cases: list[SpeechCase]
) -> None:
    state = bytes(4 * 2 * 128)
    for index, case in enumerate(speech_cases):
        answer = stub.ModelInfer(_frame_request(case.frame, state), metadata=mesh.metadata, timeout=60)
        said, state = _output(answer, "output"), _output(answer, "stateN").tobytes()
        np.testing.assert_allclose(said, case.output, rtol=0, atol=TOLERANCE, err_msg=f"frame {index}")
        np.testing.assert_allclose(
            _output(answer, "stateN"), case.state, rtol=0, atol=TOLERANCE, err_msg=f"frame {index}"
        )
    loud = sum(float(case.output[0, 0]) > 0.5 for case in speech_cases)
    assert 0.5 < loud / len(speech_cases) < 0.9, "the recording must hold both speech and silence"


def test_only_the_requested_output_comes_back(
    mesh: Mesh, stub: GRPCInferenceServiceStub, speech_cases: list[SpeechCase]
) -> None:
    request = _frame_request(speech_cases[0].frame, bytes(4 * 2 * 128))
    request.outputs.add(name="output")
    answer = stub.ModelInfer(request, metadata=mesh.metadata, timeout=60)
    assert [output.name for output in answer.outputs] == ["output"]
    assert len(answer.raw_output_contents) == 1
    assert (answer.model_name, answer.model_version) == ("silero_vad", "1")


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("magika", [("bytes", "INT32", [-1, 2048])], [("target_label", "FP32", [-1, 214])]),
        (
            "silero_vad",
            [("input", "FP32", [-1, -1]), ("state", "FP32", [2, -1, 128]), ("sr", "INT64", [])],
            [("output", "FP32", [-1, 1]), ("stateN", "FP32", [2, -1, 128])],
        ),
    ],
)
def test_metadata_describes_the_tensors_of_a_sample(
    mesh: Mesh,
    stub: GRPCInferenceServiceStub,
    name: str,
    inputs: list[tuple[str, str, list[int]]],
    outputs: list[tuple[str, str, list[int]]],
) -> None:
    answer = stub.ModelMetadata(ModelMetadataRequest(name=name), metadata=mesh.metadata, timeout=60)
    assert answer.name == name
    assert list(answer.versions) == ["1"]
    assert [(spec.name, spec.datatype, list(spec.shape)) for spec in answer.inputs] == inputs
    assert [(spec.name, spec.datatype, list(spec.shape)) for spec in answer.outputs] == outputs


def test_server_is_live_and_ready_without_a_key_and_its_samples_are_ready(
    mesh: Mesh, stub: GRPCInferenceServiceStub
) -> None:
    assert stub.ServerLive(ServerLiveRequest(), timeout=60).live
    assert stub.ServerReady(ServerReadyRequest(), timeout=60).ready
    assert stub.ServerMetadata(ServerMetadataRequest(), metadata=mesh.metadata, timeout=60).name == "headrace"
    for name in ("magika", "silero_vad"):
        assert stub.ModelReady(ModelReadyRequest(name=name), metadata=mesh.metadata, timeout=60).ready
