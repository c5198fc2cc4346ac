"""Each example of docs/api.md is run as it stands there and gives an answer of the form that stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from headrace_client import Client
from support.generation import provide_smollm2, provide_smollm2_embeddings
from support.mesh import Mesh
from support.onnx_models import add
from support.parties import until

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"
ADDRESS = "http://127.0.0.1:8080"
_EXAMPLE = re.compile(r"^```bash\n(?:# (\d{3})\n)?(.*?)^```\n```(json|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The status after the body, whatever the example prints it with.
_CURL = "curl() { command curl --silent --show-error --max-time 120 --write-out '\\n%{http_code}' \"$@\"; }\n"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A command, the status and the answer that it should get."""

    status: int
    command: str
    form: str
    answer: str


def examples() -> Iterator[Any]:
    text = DOCUMENT.read_text()
    found = _EXAMPLE.findall(text)
    assert len(found) == text.count("```bash"), "an example has no answer"
    for status, command, form, answer in found:
        path = re.search(re.escape(ADDRESS) + r"([^\s'\"?]*)", command)
        assert path is not None, command
        yield pytest.param(
            Example(status=int(status or 200), command=command, form=form, answer=answer), id=path.group(1)
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: they are those of one reader, one after another."""
    made = tmp_path_factory.mktemp("reader")
    (made / "model.onnx").write_bytes(add())
    return made


@pytest.fixture(scope="module", autouse=True)
def language_models(mesh: Mesh) -> None:
    """Ready before they are timed."""
    provide_smollm2(mesh)
    provide_smollm2_embeddings(mesh)


@pytest.fixture(scope="module", autouse=True)
def audited(mesh: Mesh) -> None:
    """There is an entry in the operators' audit log."""
    with Client(mesh.grpc, api_key=f"@{mesh.state_dir / 'secrets' / 'admin.key'}", tls=False) as client:
        client.quotas.reset("community")
        until(lambda: any(client.audit.entries(newest_first=True)))


@pytest.mark.parametrize("example", list(examples()))
def test_example_gets_an_answer_of_its_form(mesh: Mesh, folder: Path, example: Example) -> None:
    assert mesh.http is not None
    admin_key = (mesh.state_dir / "secrets" / "admin.key").read_text().strip()
    ran = subprocess.run(
        ["bash", "-euc", _CURL + example.command.replace(ADDRESS, mesh.http)],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        cwd=folder,
        env={**os.environ, "ADMIN_KEY": admin_key},
    )
    body, _, status = ran.stdout.rpartition("\n")
    assert (ran.returncode, status) == (0, str(example.status)), f"{ran.stderr}\n{body[:2000]}"
    if example.form == "json":
        same_form(json.loads(example.answer), json.loads(body), at="answer")
    else:
        assert kinds(body) == kinds(example.answer), body[:2000]


def same_form(expected: Any, actual: Any, *, at: str) -> None:
    """The same names and the same kinds of values; null stands for any, and one entry of a list for all."""
    if expected is None:
        return
    assert kind(expected) == kind(actual), f"{at}: {actual!r}"
    if isinstance(expected, dict):
        wanted, given = cast("dict[str, Any]", expected), cast("dict[str, Any]", actual)
        assert wanted.keys() == given.keys(), at
        for name, value in wanted.items():
            same_form(value, given[name], at=f"{at}.{name}")
    elif isinstance(expected, list):
        entries, found = cast("list[Any]", expected), cast("list[Any]", actual)
        assert bool(entries) == bool(found), at
        for index, (entry, other) in enumerate(zip(entries, found, strict=False)):
            same_form(entry, other, at=f"{at}[{index}]")


def kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def kinds(text: str) -> list[str]:
    """What kinds of lines there are, and how it ends."""
    lines = [line for line in text.splitlines() if line.strip()]
    names = [line.partition("{")[0].strip() for line in lines]
    return [*dict.fromkeys(names), names[-1]]
