"""Real models through the mesh with an unchanged tritonclient, which runs in an environment of its own."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from numpy.typing import NDArray

from support.mesh import Mesh
from support.real_inputs import REPOSITORY, FileCase, SpeechCase

PYTHON = REPOSITORY / ".venv-triton" / "bin" / "python"
SCRIPT = REPOSITORY / "tests" / "clients" / "triton" / "call_mesh.py"
TOLERANCE = 1e-5
# Rows that were sent at the same time may have been executed together, which adds in another order.
BATCHED_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def answers(
    mesh: Mesh,
    file_features: NDArray[np.int32],
    speech_cases: list[SpeechCase],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, NDArray[np.float32]]:
    """What tritonclient got for every real file and every frame of the conversation."""
    if not PYTHON.exists():
        pytest.fail("tritonclient's environment is missing: run `make setup-triton`")
    folder = tmp_path_factory.mktemp("triton")
    inputs, outputs = folder / "inputs.npz", folder / "outputs.npz"
    np.savez(inputs, features=file_features, frames=np.stack([case.frame for case in speech_cases]))
    done = subprocess.run(
        [PYTHON, SCRIPT, mesh.grpc, mesh.api_key, inputs, outputs],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(outputs) as archive:
        return dict(archive)


@pytest.mark.parametrize("client", ["sync", "aio"])
def test_tritonclient_gets_the_scores_and_labels_of_real_files(
    client: str, answers: dict[str, NDArray[np.float32]], file_cases: list[FileCase], class_labels: list[str]
) -> None:
    scores = answers[f"{client}_scores"]
    assert len(scores) == len(file_cases) >= 30
    np.testing.assert_allclose(scores, np.stack([case.scores for case in file_cases]), rtol=0, atol=BATCHED_TOLERANCE)
    assert [class_labels[index] for index in scores.argmax(axis=1)] == [case.label for case in file_cases]


@pytest.mark.parametrize("client", ["sync", "aio"])
def test_tritonclient_hears_the_conversation_as_it_sounds_in_process(
    client: str, answers: dict[str, NDArray[np.float32]], speech_cases: list[SpeechCase]
) -> None:
    outputs, states = answers[f"{client}_outputs"], answers[f"{client}_states"]
    np.testing.assert_allclose(outputs, np.stack([case.output for case in speech_cases]), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(states, np.stack([case.state for case in speech_cases]), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["sequence_outputs", "sequence_stream_outputs"])
def test_tritonclient_leaves_the_state_of_a_sequence_in_the_mesh(
    kind: str, answers: dict[str, NDArray[np.float32]], speech_cases: list[SpeechCase]
) -> None:
    """Frame by frame, and with all frames sent before the first answer came."""
    outputs = answers[kind]
    expected = np.stack([case.output for case in speech_cases[: len(outputs)]])
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=TOLERANCE)
    assert answers["sequence_names"].tolist() == ["output"]
    assert str(answers["sequence_after_its_end"]) == "StatusCode.FAILED_PRECONDITION"


def test_tritonclient_understands_what_the_server_says_about_itself(
    answers: dict[str, NDArray[np.float32]],
) -> None:
    facts = json.loads(str(answers["facts"]))
    assert (facts["live"], facts["ready"], facts["model_ready"]) == (True, True, True)
    assert facts["server"]["name"] == "headrace"
    assert facts["model"]["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": ["-1", "2048"]}]
    assert facts["unknown_model"] == "StatusCode.NOT_FOUND"
