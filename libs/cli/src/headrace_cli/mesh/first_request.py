"""The first real request to a new mesh: what a file of this installation is, asked of magika's model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace_cli.connection import Connection, UnreachableError
from headrace_common.errors import HeadraceError
from inference import open_inference_pb2, open_inference_pb2_grpc

# Loading a model for the first time on a cold machine belongs to the first request.
_TIMEOUT_S = 60.0
_POLL_S = 0.05
_SIDE = 1024
_NO_BYTE = 256
_BLOCK_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class FileType:
    """What the model took a file for."""

    file: Path
    label: str
    score: float
    took_s: float
    version: str


def file_features(path: Path) -> NDArray[np.int32]:
    """Magika's input for one file, shape (1, 2048): its first and last 1024 bytes without white space at the ends.

    256 stands where the file is too short to fill them.
    """
    with path.open("rb") as file:
        head = file.read(_BLOCK_BYTES).lstrip()[:_SIDE]
        file.seek(max(0, path.stat().st_size - _BLOCK_BYTES))
        tail = file.read(_BLOCK_BYTES).rstrip()[-_SIDE:]
    features = np.full((1, 2 * _SIDE), _NO_BYTE, np.int32)
    features[0, : len(head)] = np.frombuffer(head, np.uint8)
    features[0, 2 * _SIDE - len(tail) :] = np.frombuffer(tail, np.uint8)
    return features


def ask_file_type(connection: Connection, *, model: str, version: int, file: Path) -> FileType:
    """Send one file to the model and read the answer.

    Raises:
        HeadraceError: the mesh refused it.
        UnreachableError: the gateway does not answer.
    """
    models = models_pb2_grpc.ModelServiceStub(connection.channel)
    named = models_pb2.GetVersionRequest(model=model, version=version)
    labels = connection.call(models.GetVersion, named).version.manifest.class_labels
    features = file_features(file)
    tensor = open_inference_pb2.ModelInferRequest.InferInputTensor(name="bytes", datatype="INT32", shape=features.shape)
    request = open_inference_pb2.ModelInferRequest(
        model_name=model,
        model_version=str(version),
        inputs=[tensor],
        raw_input_contents=[features.tobytes()],
    )
    inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(connection.channel)
    # The catalogue that the registry has confirmed reaches a gateway's memory a moment later.
    give_up_at = time.monotonic() + _TIMEOUT_S
    while True:
        started_at = time.monotonic()
        try:
            answer = connection.call(inference.ModelInfer, request, timeout_s=_TIMEOUT_S)
            break
        except HeadraceError as error:
            if time.monotonic() >= give_up_at or not (error.retryable or error.entry.grpc == "NOT_FOUND"):
                raise
            time.sleep(_POLL_S)
    took_s = time.monotonic() - started_at
    scores = np.frombuffer(answer.raw_output_contents[0], np.float32)
    best = int(scores.argmax())
    return FileType(
        file=file, label=labels[best], score=float(scores[best]), took_s=took_s, version=answer.model_version
    )


def wait_until_complete(connection: Connection, *, runners: int) -> str:
    """Wait until the gateway is ready and has all runners; returns its version. Each try is a real call.

    Raises:
        HeadraceError: the gateway refuses for good, or the runners don't come in time.
        UnreachableError: the gateway does not answer in time.
    """
    inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(connection.channel)
    mesh = mesh_pb2_grpc.MeshServiceStub(connection.channel)
    give_up_at = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            ready = connection.call(inference.ServerReady, open_inference_pb2.ServerReadyRequest()).ready
            listed = connection.call(mesh.ListRunners, mesh_pb2.ListRunnersRequest()).runners
            present = sum(runner.state == mesh_pb2.RUNNER_STATE_READY for runner in listed)
            if ready and present >= runners:
                return connection.call(inference.ServerMetadata, open_inference_pb2.ServerMetadataRequest()).version
            if time.monotonic() >= give_up_at:
                raise TimeoutError(f"the gateway has {present} of {runners} runners")
        except (HeadraceError, UnreachableError) as error:
            if time.monotonic() >= give_up_at or (isinstance(error, HeadraceError) and not error.retryable):
                raise
        time.sleep(_POLL_S)
