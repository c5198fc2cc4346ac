"""A distribution declares what it imports: its image installs nothing else."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
DISTRIBUTIONS = sorted(
    path.parent for path in ROOT.glob("*/*/pyproject.toml") if path.parts[-3] in {"libs", "services"}
)
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[^\]]*)\])?")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _project(distribution: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((distribution / "pyproject.toml").read_text())["project"]
    return project


@cache
def _installed() -> dict[str, list[str]]:
    """Which distributions bring each top-level package, ours included, which are installed as paths."""
    installed = dict(packages_distributions())
    for distribution in DISTRIBUTIONS:
        for package in (distribution / "src").iterdir():
            installed[package.name] = [_project(distribution)["name"]]
    return installed


def _declared(distribution: Path) -> set[str]:
    project = _project(distribution)
    requirements = [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]
    names = {_normal(project["name"])}
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        assert found is not None, requirement
        name, extras = _normal(found["name"]), found["extras"] or ""
        # What an extra brings is named after both by most projects: psycopg[pool] is psycopg-pool.
        names |= {name, *(f"{name}-{_normal(extra.strip())}" for extra in extras.split(","))}
    return names


def _imported(distribution: Path) -> dict[str, Path]:
    """Dotted names of all absolute imports, with a file that has each."""
    found: dict[str, Path] = {}
    for path in (distribution / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(dict.fromkeys((alias.name for alias in node.names), path))
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.update(dict.fromkeys((f"{node.module}.{alias.name}" for alias in node.names), path))
    return found


def _providers(module: str, installed: dict[str, list[str]]) -> set[str]:
    if module.startswith("google.protobuf"):
        return {"protobuf"}
    if module.startswith("google."):
        return {"googleapis-common-protos"}
    package = module.split(".")[0]
    # What only an extra brings may not be installed here; it is looked for under the name that it is imported by.
    return {_normal(name) for name in installed.get(package, [package])}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda path: path.name)
def test_distribution_declares_what_it_imports(distribution: Path) -> None:
    declared, installed = _declared(distribution), _installed()
    missing: set[str] = set()
    for module, path in _imported(distribution).items():
        if module.split(".")[0] in sys.stdlib_module_names:
            continue
        providers = _providers(module, installed)
        if not providers & declared:
            missing.add(f"{module} ({path.relative_to(ROOT)})")
    assert missing == set()
