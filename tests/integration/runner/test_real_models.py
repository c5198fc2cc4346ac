"""Models that the world uses, through the runner and beside it: magika's file types and silero's speech detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from google.protobuf import json_format

from headrace.registry.v1.manifest_pb2 import ArtifactFormat, Manifest
from headrace.registry.v1.models_pb2 import Version
from headrace_cli.samples import available_samples
from support import real_inputs
from support.artifacts import version_of
from support.runner import RunnerUnderTest, running_host

TOLERANCE = 1e-5


async def loaded(runner: RunnerUnderTest, name: str) -> Version:
    """Loads a sample with the manifest that it ships with."""
    sample = next((sample for sample in available_samples() if sample.name == name), None)
    if sample is None:
        pytest.skip(f"the package with {name} is not installed")
    described = yaml.safe_load(sample.manifest_path.read_text())
    manifest = json_format.ParseDict(described, Manifest())
    manifest.format = ArtifactFormat.ARTIFACT_FORMAT_ONNX
    content = sample.model_path.read_bytes()
    runner.artifacts.files["model.onnx"] = content
    version = version_of(name, {"model.onnx": content}, manifest=manifest)
    runner.want(version)
    await runner.settled(version.uid)
    return version


async def test_magika_tells_real_files_apart_as_it_does_in_this_process(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await loaded(runner, "magika")
        cases = real_inputs.file_cases()
        for case in cases:
            outputs = await runner.infer(version, bytes=case.features[None])
            (scores,) = outputs.values()
            np.testing.assert_allclose(scores[0], case.scores, atol=TOLERANCE)
        rows = np.stack([case.features for case in cases])
        (scores,) = (await runner.infer(version, bytes=rows)).values()
        np.testing.assert_allclose(scores, real_inputs.batch_scores(rows), atol=TOLERANCE)


async def test_silero_follows_real_speech_as_it_does_in_this_process(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await loaded(runner, "silero_vad")
        state = np.zeros((2, 1, 128), np.float32)
        heard: list[float] = []
        for case in real_inputs.speech_cases(200, 150):
            outputs = await runner.infer(version, input=case.frame, state=state, sr=np.array(16_000, np.int64))
            np.testing.assert_allclose(outputs["output"], case.output, atol=TOLERANCE)
            np.testing.assert_allclose(outputs["stateN"], case.state, atol=TOLERANCE)
            state = outputs["stateN"]
            heard.append(float(outputs["output"][0, 0]))
        assert max(heard) > 0.9
        assert min(heard) < 0.1
