"""The client commands against a whole mesh."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from support.folders import open_folder
from support.mesh import HEADRACE, Mesh, running_mesh

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def own_mesh() -> Iterator[Mesh]:
    with open_folder() as made, running_mesh(made, "--runners", "1") as mesh:
        yield mesh


class Headrace(Protocol):
    def __call__(
        self, *arguments: str, status: int = 0, admin: bool = False, text: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def headrace(own_mesh: Mesh) -> Headrace:
    def run(
        *arguments: str, status: int = 0, admin: bool = False, text: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        admin_key = f"@{own_mesh.state_dir / 'secrets' / 'admin.key'}"
        variables = {
            **os.environ,
            "HEADRACE_ENDPOINT": own_mesh.grpc,
            "HEADRACE_API_KEY": admin_key if admin else own_mesh.api_key,
            "COLUMNS": "200",
            **environment,
        }
        done = subprocess.run(
            [str(HEADRACE), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
            env=variables,
            input=text,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def shown(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


@pytest.fixture
def doubler(tmp_path: Path) -> Path:
    """A model whose output `y` is twice its input `x`, rows of three."""
    rows = {"x": helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])}
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubler", [rows["x"]], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "doubler.onnx"
    onnx.save(model, path)
    return path


def test_a_pushed_model_is_listed_shown_and_answers(headrace: Headrace, doubler: Path, tmp_path: Path) -> None:
    pushed = shown(headrace("models", "push", str(doubler), "--name", "doubler", "--json"))
    assert (pushed["model"], pushed["version"], pushed["state"]) == ("doubler", "1", "VERSION_STATE_READY")
    assert "doubler" in headrace("models", "list").stdout
    page = headrace("models", "show", "doubler:1").stdout
    assert "[*, 3]" in page
    np.save(tmp_path / "rows.npy", np.array([[1, 2, 3]], np.float32))
    answer = shown(headrace("infer", "doubler", "--input", f"x=@{tmp_path / 'rows.npy'}", "--json"))
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [[2.0, 4.0, 6.0]]}]
    piped = shown(headrace("infer", "doubler:1", "-i", "-", "--json", text="[[1, 1, 1], [2, 2, 2]]"))
    assert piped["outputs"][0]["data"] == [[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]]


def test_pushing_the_same_version_again_changes_nothing(headrace: Headrace, doubler: Path) -> None:
    push = ("models", "push", str(doubler), "--name", "again", "--version", "7", "--json")
    assert shown(headrace(*push))["uid"] == shown(headrace(*push))["uid"]


def test_a_manifest_overrides_what_the_file_says(headrace: Headrace, doubler: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "model.yaml"
    manifest.write_text("description: twice as much\n")
    headrace("models", "push", str(doubler), "--name", "described", "--manifest", str(manifest))
    assert "twice as much" in headrace("models", "show", "described").stdout


def test_a_file_that_is_no_model_is_refused_with_what_to_do(headrace: Headrace, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model" * 100)
    done = headrace("models", "push", str(broken), "--name", "broken", status=1)
    assert "Traceback" not in done.stderr
    assert "[" in done.stderr
    headrace("models", "show", "broken", status=1)


def test_samples_are_there_and_classify(headrace: Headrace) -> None:
    models = {model["name"] for model in shown(headrace("models", "list", "--json"))}
    assert {"magika", "silero_vad"} <= models
    done = headrace("infer", "magika", "-i", json.dumps([[256] * 2048]))
    assert "row 0:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("infer", "nothing", "-i", "[1]"), 1, "MODEL_001"),
        (("infer", "magika", "-i", "[[1.5]]"), 1, "fractions"),
        (("infer", "magika", "-i", "[[1, 2]]"), 1, "TENSOR_001"),
        (("infer", "magika", "-i", "typo=[[1]]"), 1, "no input 'typo'"),
        (("infer", "magika:x", "-i", "[1]"), 1, "whole number"),
        (("models", "push", "/nowhere.onnx", "--name", "x"), 2, "does not exist"),
        (("models", "frobnicate"), 2, "No such command"),
        (("tenants", "list"), 1, "admin"),
    ],
)
def test_failures_are_told_in_words_with_their_exit_status(
    headrace: Headrace, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = headrace(*arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_failures_are_json_for_programs(headrace: Headrace) -> None:
    error = json.loads(headrace("models", "show", "nothing", "--json", status=1).stderr)["error"]
    assert (error["code"], error["reason"], error["retryable"]) == ("MODEL_001", "MODEL_NOT_FOUND", False)


def test_nobody_at_the_endpoint_has_an_exit_status_of_its_own(headrace: Headrace) -> None:
    done = headrace("models", "list", status=3, HEADRACE_ENDPOINT="127.0.0.1:9")
    assert "no mesh answers at 127.0.0.1:9" in done.stderr


def test_the_mesh_on_the_state_directory_is_found_without_an_endpoint(headrace: Headrace, own_mesh: Mesh) -> None:
    done = headrace("models", "list", HEADRACE_ENDPOINT="", HEADRACE_STATE_DIR=str(own_mesh.state_dir))
    assert "magika" in done.stdout


def test_a_second_mesh_on_the_same_folder_is_refused_with_the_pid(headrace: Headrace, own_mesh: Mesh) -> None:
    refused = headrace("up", "--state-dir", str(own_mesh.state_dir), "--grpc-port", "0", status=1)
    assert f"a mesh already runs on {own_mesh.state_dir} (process {own_mesh.supervisor.pid})" in refused.stdout
    assert "magika" in headrace("models", "list").stdout


def test_an_explicit_port_that_is_taken_is_an_error(headrace: Headrace, own_mesh: Mesh, folder: Path) -> None:
    port = own_mesh.grpc.rpartition(":")[2]
    refused = headrace("up", "--state-dir", str(folder), "--grpc-port", port, status=1)
    assert f"port {port} is taken" in refused.stdout


def test_runners_are_listed_with_their_models(headrace: Headrace) -> None:
    headrace("infer", "magika", "-i", json.dumps([[0] * 2048]))
    (runner,) = shown(headrace("runners", "list", "--json"))["runners"]
    assert (runner["name"], runner["state"]) == ("runner-0", "RUNNER_STATE_READY")
    assert "magika" in headrace("runners", "list").stdout


def test_an_operator_makes_tenants_and_keys_and_ends_them(headrace: Headrace, doubler: Path) -> None:
    headrace("tenants", "create", "acme", "--display-name", "Acme", admin=True)
    assert "acme" in headrace("tenants", "list", admin=True).stdout
    made = shown(headrace("keys", "create", "--tenant", "acme", "--role", "model_admin", "--json", admin=True))
    key, key_id = made["key"], made["api_key"]["id"]

    def as_acme(*arguments: str) -> subprocess.CompletedProcess[str] | None:
        try:
            return headrace(*arguments, HEADRACE_API_KEY=key)
        except AssertionError:
            return None

    await_that(lambda: as_acme("models", "list") is not None)
    assert "no models yet" in headrace("models", "list", HEADRACE_API_KEY=key).stdout
    headrace("models", "push", str(doubler), "--name", "secret", HEADRACE_API_KEY=key)
    assert "MODEL_001" in headrace("models", "show", "secret", status=1).stderr
    assert key_id in headrace("keys", "list", "--tenant", "acme", admin=True).stdout
    headrace("tenants", "suspend", "acme", admin=True)
    await_that(lambda: as_acme("models", "list") is None)
    headrace("tenants", "resume", "acme", admin=True)
    await_that(lambda: as_acme("models", "list") is not None)
    headrace("keys", "revoke", key_id, admin=True)
    await_that(lambda: as_acme("models", "list") is None)


def await_that(condition: Any, *, tries: int = 15) -> None:
    """Each try is a command of its own, which takes long enough not to need a pause."""
    assert any(condition() for _ in range(tries))
