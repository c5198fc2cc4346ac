"""The examples, run as a person runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from support.mesh import Mesh
from support.real_inputs import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
TRITON_PYTHON = REPOSITORY / ".venv-triton" / "bin" / "python"


def _run(mesh: Mesh, example: str, *arguments: str, python: Path = Path(sys.executable)) -> str:
    connection = ["--endpoint", mesh.grpc, "--api-key", mesh.api_key]
    done = subprocess.run(
        [python, EXAMPLES / example, *connection, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def _types(table: str) -> dict[str, str]:
    lines = [line.split() for line in table.splitlines()]
    return {words[0]: words[1] for words in lines if len(words) >= 3 and words[2].endswith("%")}


@pytest.mark.parametrize(
    ("example", "python"),
    [("file_type.py", Path(sys.executable)), ("tritonclient_file_type.py", TRITON_PYTHON)],
)
def test_file_type_example_names_the_types_of_given_files(mesh: Mesh, example: str, python: Path) -> None:
    files = [REPOSITORY / "pyproject.toml", EXAMPLES / "file_type.py", Path(sys.executable).resolve()]
    types = _types(_run(mesh, example, *map(str, files), python=python))
    assert types == {"pyproject.toml": "toml", "file_type.py": "python", files[2].name: "elf"}


def test_file_type_example_works_without_arguments(mesh: Mesh) -> None:
    types = _types(_run(mesh, "file_type.py"))
    assert types["pyproject.toml"] == "toml"
    assert types["Makefile"] == "makefile"
    assert len(types) >= 6


def test_voice_activity_example_hears_speech_where_people_transcribed_it(mesh: Mesh) -> None:
    """The recording comes with the times of its turns: the first begins at 6.69 s, the last ends at 30.0 s."""
    printed = _run(mesh, "voice_activity.py")
    segments = [(float(start), float(end)) for start, end in re.findall(r"([\d.]+) s to +([\d.]+) s", printed)]
    assert len(segments) >= 2
    assert segments[0][0] == pytest.approx(6.69, abs=0.2)
    assert segments[-1][1] == pytest.approx(30.0, abs=0.2)
    assert all(earlier[1] < later[0] for earlier, later in pairwise(segments))


def test_example_prints_the_mesh_own_words_when_it_is_refused(mesh: Mesh) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "file_type.py", "--endpoint", mesh.grpc, "--api-key", "nobodys-key"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("UNAUTHENTICATED: ")
    assert "Traceback" not in done.stderr
