"""The examples, run as a person runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from headrace_cli.samples import sample_speech
from support.generation import provide_smollm2, provide_smollm2_embeddings
from support.mesh import Mesh
from support.real_inputs import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
PYTHON = Path(sys.executable)
TRITON_PYTHON = REPOSITORY / ".venv-triton" / "bin" / "python"
FILES = [REPOSITORY / "pyproject.toml", EXAMPLES / "sdk_sync.py", PYTHON.resolve()]
TYPES = {"pyproject.toml": "toml", "sdk_sync.py": "python", FILES[2].name: "elf"}


def _run(mesh: Mesh, example: str, *arguments: str, python: Path = PYTHON) -> str:
    connection = ["--endpoint", mesh.grpc, "--api-key", mesh.api_key]
    done = subprocess.run(
        [python, EXAMPLES / example, *connection, *arguments], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-4000:]
    return done.stdout


def _types(printed: str) -> dict[str, str]:
    lines = [line.split() for line in printed.splitlines()]
    return {words[0]: words[1] for words in lines if len(words) >= 3 and words[2].endswith("%")}


def test_blocking_sdk_names_the_types_of_files(mesh: Mesh) -> None:
    printed = _run(mesh, "sdk_sync.py", *map(str, FILES))
    assert _types(printed) == TYPES
    assert re.search(r"3 files, [\d.]+ ms by onnxruntime on runner-\d \(cpu\)\n$", printed)


def test_generated_stubs_name_the_types_of_files_by_a_call_and_by_a_packed_stream(mesh: Mesh) -> None:
    single, packed = _run(mesh, "generated_stubs.py", *map(str, FILES)).split("\n\n")
    assert _types(single) == TYPES
    limits, *answers, end = packed.splitlines()
    assert limits == "stream: up to 1024 calls and 64 MiB in flight"
    assert end == "stream ended: OK"
    # The last call was cancelled, which its answer may have overtaken.
    cancelled = {line.split()[0] for line in answers if line.endswith("cancelled")}
    assert cancelled <= {FILES[-1].name}
    assert _types(packed) == {name: label for name, label in TYPES.items() if name not in cancelled}
    assert len(answers) == len(FILES)


def test_tritonclient_names_the_types_of_files_by_a_batch_and_by_a_stream(mesh: Mesh) -> None:
    batch, stream = _run(mesh, "triton_client.py", *map(str, FILES), python=TRITON_PYTHON).split("\n\n")
    assert _types(batch) == TYPES
    assert _types(stream) == TYPES


def test_packed_stream_of_the_sdk_counts_a_folder_and_finds_a_file(mesh: Mesh) -> None:
    printed = _run(mesh, "sdk_stream.py", "--find", "toml", str(REPOSITORY / "libs" / "protos"))
    counts = {label: int(count) for count, label in re.findall(r"^ *(\d+)  (\w+)$", printed, re.MULTILINE)}
    assert counts["python"] >= 10
    (answered, calls) = re.findall(r"^(\d+) of (\d+) calls answered", printed, re.MULTILINE)[0]
    assert answered == calls == str(sum(counts.values()))
    assert re.search(r"first toml file: \S+/libs/protos/pyproject.toml \(answer \d+; \d+ calls cancelled\)", printed)


def test_asyncio_sdk_hears_speech_where_people_transcribed_it(mesh: Mesh) -> None:
    """The recording comes with the times of its turns: the first begins at 6.69 s, the last ends at 30.0 s."""
    recording = str(sample_speech())
    first, second = _run(mesh, "sdk_async.py", recording, recording).split("sample.wav\n")[1:]
    assert first == second
    segments = [(float(start), float(end)) for start, end in re.findall(r"([\d.]+) s to +([\d.]+) s", first)]
    assert len(segments) >= 2
    assert segments[0][0] == pytest.approx(6.69, abs=0.2)
    assert segments[-1][1] == pytest.approx(30.0, abs=0.2)
    assert all(earlier[1] < later[0] for earlier, later in pairwise(segments))


def test_generate_prints_the_same_text_by_the_sdk_and_by_stubs(mesh: Mesh) -> None:
    provide_smollm2(mesh)
    printed = _run(mesh, "generate.py", "--max-tokens", "12", "Once upon a time")
    by_sdk, by_stubs = re.findall(r"(?s)(.+?)\n-- ([^\n]+)\n", printed)
    assert by_sdk[0] == by_stubs[0] and len(by_sdk[0]) > 12
    assert by_sdk[1].startswith("12 tokens, the first after ") and by_sdk[1].endswith("; ended by length")
    assert re.fullmatch(r"4 tokens in, 12 out, on runner-\d", by_stubs[1])


def test_semantic_search_finds_what_is_meant_first(mesh: Mesh, tmp_path: Path) -> None:
    provide_smollm2_embeddings(mesh)
    texts = {
        "cat.txt": "The cat sat on the mat in the warm kitchen and slept.",
        "stocks.txt": "Stock markets fell sharply on Monday as investors sold shares of banks.",
        "code.md": "def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(f"Title\n\n{text}\n")
    found = _run(mesh, "semantic_search.py", "--folder", str(tmp_path), "A kitten slept on a rug in the living room.")
    lines = found.splitlines()
    assert re.fullmatch(r"0\.\d{4}  \S+/cat\.txt:3  The cat sat .*", lines[0])
    similarities = [float(line.split()[0]) for line in lines[:3]]
    assert similarities == sorted(similarities, reverse=True)
    assert lines[3].startswith("3 passages as vectors of 576 numbers in ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--folder", "{folder}/none"), "{folder}/none: No such file or directory"),
        (("--folder", "{folder}/file"), "{folder}/file: Not a directory"),
        (("--folder", "{folder}"), "no text in {folder}"),
        (("--limit", "0"), "argument --limit: must be a whole number of 1 or more"),
        (("--top", "-1"), "argument --top: must be a whole number of 1 or more"),
    ],
)
def test_semantic_search_says_what_it_can_t_search(arguments: Sequence[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "a folder.md").mkdir()
    (tmp_path / "file").touch()
    given = [argument.format(folder=tmp_path) for argument in arguments]
    command = [PYTHON, EXAMPLES / "semantic_search.py", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"error: {words.format(folder=tmp_path)}\n")


def test_file_examples_work_without_arguments(mesh: Mesh) -> None:
    types = _types(_run(mesh, "sdk_sync.py"))
    assert types["pyproject.toml"] == "toml"
    assert types["Makefile"] == "makefile"
    assert len(types) >= 6


@pytest.mark.parametrize(
    ("example", "words"),
    [("generated_stubs.py", "UNAUTHENTICATED: "), ("sdk_sync.py", r".* \[AUTH_002 CREDENTIAL_UNKNOWN\]")],
)
def test_example_prints_the_mesh_own_words_when_it_is_refused(mesh: Mesh, example: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, "--endpoint", mesh.grpc, "--api-key", "nobodys-key"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert re.match(words, done.stderr)
    assert "Traceback" not in done.stderr


def test_readme_of_the_examples_names_each_of_them() -> None:
    named = set(re.findall(r"examples/(\w+\.py)", (EXAMPLES / "README.md").read_text()))
    assert named | {"magika_features.py"} == {path.name for path in EXAMPLES.glob("*.py")}
