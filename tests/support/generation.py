"""Text of a language model through a mesh, by every way that there is without an SDK."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grpc

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_client import Client
from headrace_client.contracts.headrace.registry.v1.manifest_pb2 import MODEL_TASK_EMBED, Manifest
from headrace_client.errors import ModelError
from inference import open_inference_pb2 as oip
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.buf_curl import buf_curl, documents
from support.mesh import Mesh
from support.smollm2 import MODEL, model_file

EMBEDDING_MODEL = f"{MODEL}-embed"
GREEDY: Mapping[str, Any] = {"temperature": 0, "seed": 7}
"""Sampling that always gives the same."""
TIMEOUT_S = 60.0

Tensor = oip.ModelInferRequest.InferInputTensor


def provide_smollm2(mesh: Mesh) -> None:
    """Has the mesh know the model, and load it."""
    with Client(mesh.grpc, api_key=mesh.api_key) as client:
        try:
            client.models.get(MODEL)
        except ModelError:
            client.models.push(model_file(), name=MODEL)
        client.models.load(MODEL)


def provide_smollm2_embeddings(mesh: Mesh) -> None:
    """Has the mesh know the model that makes vectors, from the same file."""
    manifest = Manifest(task=MODEL_TASK_EMBED)
    with Client(mesh.grpc, api_key=mesh.api_key) as client:
        try:
            client.models.get(EMBEDDING_MODEL)
        except ModelError:
            client.models.push(model_file(), name=EMBEDDING_MODEL, manifest=manifest)
        client.models.load(EMBEDDING_MODEL)


def asking(prompt: str | Sequence[int], *, model: str = MODEL, **sampling: Any) -> pb.GenerateRequest:
    """A request to continue a text or tokens, greedily where `sampling` says nothing else."""
    parameters = pb.SamplingParameters(**{**GREEDY, **sampling})
    if isinstance(prompt, str):
        return pb.GenerateRequest(model_name=model, text=prompt, sampling=parameters)
    return pb.GenerateRequest(model_name=model, token_ids=pb.TokenIds(ids=prompt), sampling=parameters)


def chatting(messages: Iterable[tuple[str, str]], *, model: str = MODEL, **sampling: Any) -> pb.GenerateRequest:
    """A request to answer a conversation."""
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role=role, content=content) for role, content in messages])
    return pb.GenerateRequest(model_name=model, chat=chat, sampling=pb.SamplingParameters(**{**GREEDY, **sampling}))


def responses(mesh: Mesh, channel: grpc.Channel, request: pb.GenerateRequest) -> Iterator[pb.GenerateResponse]:
    """The stream of a generated stub."""
    return InferenceServiceStub(channel).Generate(request, metadata=mesh.metadata, timeout=TIMEOUT_S)


def text_of(messages: Iterable[pb.GenerateResponse]) -> str:
    """The text of all deltas of one completion."""
    return "".join(delta.text for message in messages for delta in message.deltas)


def stub_text(mesh: Mesh, channel: grpc.Channel, request: pb.GenerateRequest) -> str:
    """The text that a generated stub gets."""
    return text_of(responses(mesh, channel, request))


def buf_curl_text(mesh: Mesh, prompt: str, **sampling: Any) -> str:
    """The text that `buf curl` gets."""
    fields = {
        "".join([word.capitalize() if n else word for n, word in enumerate(name.split("_"))]): value
        for name, value in {**GREEDY, **sampling}.items()
    }
    body = json.dumps({"modelName": MODEL, "text": prompt, "sampling": fields})
    printed = buf_curl(mesh, "--data", body, f"http://{mesh.grpc}/headrace.gateway.v1.InferenceService/Generate")
    return "".join(delta.get("text", "") for message in documents(printed) for delta in message.get("deltas", []))


def text_tensor(name: str, *values: bytes) -> tuple[Tensor, bytes]:
    """A tensor of bytes and its content."""
    raw = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    return Tensor(name=name, datatype="BYTES", shape=[len(values)]), raw


def decoupled(
    prompt: bytes, *, model: str = MODEL, stream: bool = True, parameters: bytes | None = None, **sampling: Any
) -> oip.ModelInferRequest:
    """A request as Triton's clients of a language model send it: a prompt, and sampling as JSON.

    Args:
        prompt: The text.
        model: Name of the model.
        stream: Whether each token is told.
        parameters: The JSON as it is; None means that of `sampling`.
        sampling: As for `asking`.
    """
    said = json.dumps({**GREEDY, **sampling}).encode() if parameters is None else parameters
    tensors = [
        text_tensor("text_input", prompt),
        (Tensor(name="stream", datatype="BOOL", shape=[1]), bytes([stream])),
        text_tensor("sampling_parameters", said),
        (Tensor(name="exclude_input_in_output", datatype="BOOL", shape=[1]), b"\1"),
    ]
    return oip.ModelInferRequest(
        model_name=model,
        inputs=[tensor for tensor, _ in tensors],
        raw_input_contents=[raw for _, raw in tensors],
    )


def decoupled_text(mesh: Mesh, channel: grpc.Channel, request: oip.ModelInferRequest) -> str:
    """The text that one request on a stream of the Open Inference service gets; the last answer says that it is."""
    stub = GRPCInferenceServiceStub(channel)
    answers = list(stub.ModelStreamInfer(iter([request]), metadata=mesh.metadata, timeout=TIMEOUT_S))
    assert not [answer.error_message for answer in answers if answer.error_message]
    finals = [answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers]
    assert finals == [*[False] * (len(answers) - 1), True], finals
    return "".join(text_output(answer.infer_response) for answer in answers)


def text_output(answer: oip.ModelInferResponse) -> str:
    """The text of an answer; empty where it has no output."""
    if not answer.outputs:
        return ""
    assert [(output.name, output.datatype) for output in answer.outputs] == [("text_output", "BYTES")]
    (raw,) = answer.raw_output_contents
    assert int.from_bytes(raw[:4], "little") == len(raw) - 4
    return raw[4:].decode()
