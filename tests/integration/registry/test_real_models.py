"""Models that people use, from the wheels that ship them: understood as ONNX Runtime understands them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.manifest_pb2 import TensorSpec
from support.registry import ACME, RegistryClient


def installed(package: str, pattern: str) -> Path:
    """A file of an installed package, which is located and never imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {package} is not installed (dependency group `samples`)")
    return next(Path(spec.origin).parent.glob(pattern))


async def test_magika_is_a_batched_classifier(client: RegistryClient) -> None:
    content = installed("magika", "models/standard_v*/model.onnx").read_bytes()
    version = await client.upload(content, model="file-type")
    manifest = version.manifest
    assert list(manifest.inputs) == [TensorSpec(name="bytes", datatype="INT32", shape=[-1, 2048])]
    (output,) = manifest.outputs
    assert (output.name, output.datatype, output.shape[0], len(output.shape)) == ("target_label", "FP32", -1, 2)
    assert manifest.batched
    _, received = await client.download(ACME, pb.DownloadVersionRequest(model="file-type"))
    assert received == content


async def test_silero_is_not_batched_because_its_state_has_rows_on_the_second_axis(client: RegistryClient) -> None:
    content = installed("silero_vad", "data/silero_vad.onnx").read_bytes()
    manifest = (await client.upload(content, model="voice-activity")).manifest
    assert list(manifest.inputs) == [
        TensorSpec(name="input", datatype="FP32", shape=[-1, -1]),
        TensorSpec(name="state", datatype="FP32", shape=[2, -1, 128]),
        TensorSpec(name="sr", datatype="INT64", shape=[]),
    ]
    assert [output.name for output in manifest.outputs] == ["output", "stateN"]
    assert not manifest.batched
