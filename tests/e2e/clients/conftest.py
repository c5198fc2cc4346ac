"""Real inputs with the answers of ONNX Runtime in this process, and calls by generated stubs."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.registry.v1.models_pb2 import GetVersionRequest
from headrace.registry.v1.models_pb2_grpc import ModelServiceStub
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.mesh import Mesh
from support.real_inputs import FileCase, SpeechCase
from support.real_inputs import file_cases as make_file_cases
from support.real_inputs import speech_cases as make_speech_cases


@pytest.fixture(scope="session")
def file_cases() -> list[FileCase]:
    """At least thirty real files."""
    return make_file_cases()


@pytest.fixture(scope="session")
def file_features(file_cases: list[FileCase]) -> NDArray[np.int32]:
    """One row for each real file, shape (files, 2048)."""
    return np.stack([case.features for case in file_cases])


@pytest.fixture(scope="session")
def speech_cases() -> list[SpeechCase]:
    """The whole recorded conversation."""
    return make_speech_cases()


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    """The Open Inference service of the shared mesh."""
    return GRPCInferenceServiceStub(channel)


@pytest.fixture
def class_labels(mesh: Mesh, channel: grpc.Channel) -> list[str]:
    """The file types in the order of the model's outputs, as the registry of the mesh tells them."""
    answer = ModelServiceStub(channel).GetVersion(GetVersionRequest(model="magika"), metadata=mesh.metadata, timeout=60)
    return list(answer.version.manifest.class_labels)
