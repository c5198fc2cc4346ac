"""Open Inference REST with an unchanged tritonclient, on the mesh that all tests share."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from support import onnx_models
from support.mesh import Mesh
from support.parties import operator
from support.real_inputs import REPOSITORY

PYTHON = REPOSITORY / ".venv-triton" / "bin" / "python"
SCRIPT = REPOSITORY / "tests" / "clients" / "triton" / "call_http.py"
CLASSIFIER = "classifier"


@pytest.fixture(scope="module")
def facts(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tritonclient got."""
    if not PYTHON.exists():
        pytest.fail("tritonclient's environment is missing: run `make setup-triton`")
    assert mesh.http is not None
    written = tmp_path_factory.mktemp("triton") / "facts.json"
    with grpc.insecure_channel(mesh.grpc) as channel:
        owner = operator(mesh, channel).tenant().admin
        owner.push("numbers", onnx_models.identities(sorted(onnx_models.ELEMENT_TYPES.keys() - {"BYTES"})))
        owner.push("texts", onnx_models.identities(["BYTES"]))
        owner.push(CLASSIFIER, onnx_models.identity())
        ((_, key),) = owner.metadata
    done = subprocess.run(
        [PYTHON, SCRIPT, mesh.http.removeprefix("http://"), key, written],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(Path(written).read_text())


def test_every_datatype_comes_back_bit_by_bit(facts: dict[str, Any]) -> None:
    forms = {f"{sent} {asked}" for sent in ("binary", "json") for asked in ("binary", "json", "default")}
    assert facts["unary"] == {form: [] for form in forms}
    assert (facts["aio"], facts["compressed"]) == ([], [])


def test_server_and_models_describe_themselves(facts: dict[str, Any]) -> None:
    about = facts["about"]
    assert (about["live"], about["ready"], about["server"]) == (True, True, "headrace")
    assert (about["model_ready"], about["version_ready"]) == ([True, False], True)
    tensor = {"datatype": "FP32", "shape": [-1, 4]}
    assert about["metadata"] == {
        "name": CLASSIFIER,
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "z", **tensor}],
    }
    (config_input,) = about["config"]["input"]
    assert (config_input["data_type"], config_input["dims"]) == ("TYPE_FP32", [4])
    (statistics,) = about["statistics"]["model_stats"]
    assert (statistics["version"], statistics["inference_count"]) == ("1", 2)
    assert statistics["inference_stats"]["success"]["count"] == 1
    assert about["all_statistics"] == 3


def test_classes_identifiers_and_the_repository_work(facts: dict[str, Any]) -> None:
    about = facts["about"]
    assert about["classes"] == [["4.000000:1", "2.000000:2"], ["4.000000:3", "3.000000:2"]]
    assert (about["id"], about["states"]) == ("r-1", [["UNAVAILABLE"], ["READY"]])


def test_failures_have_a_status_and_say_why(facts: dict[str, Any]) -> None:
    found = facts["failures"]
    assert {name: status for name, (status, _) in found.items()} == {
        "model": "404",
        "version": "404",
        "alias": "400",
        "input": "400",
        "nan": "400",
        "key": "401",
        "nothing": "200",
        "override": "400",
    }
    assert found["model"][1] == "model 'no_such_model' was not found"
    assert 'write them as texts, "NaN"' in found["nan"][1]
    assert "parameters.config" in found["override"][1]
