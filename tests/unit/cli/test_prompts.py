"""What people write for a language model: prompts, messages of a conversation, stop texts, vectors to compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer

from headrace_cli.conversation import read_message
from headrace_cli.embedding_call import cosine_similarities, texts_for
from headrace_cli.generation_call import prompt_for
from headrace_cli.sampling_options import unescaped
from headrace_client.errors import ValidationError


def read_all(content: str) -> list[str]:
    lines = iter(content.splitlines())
    read: list[str] = []
    while (message := read_message(lambda: next(lines, None))) is not None:
        read.append(message)
    return read


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", []),
        ("one\n\ntwo", ["one", "", "two"]),
        ("one \\\nline\nnext", ["one \nline", "next"]),
        ("the end\\", ["the end"]),
        ('"""\na\n\nb\\\n"""\nnext', ["a\n\nb\\", "next"]),
        (' """ \nnever closed', ["never closed"]),
        ('say """ please', ['say """ please']),
    ],
)
def test_a_message_is_a_line_or_several(content: str, expected: list[str]) -> None:
    assert read_all(content) == expected


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\n\n", "\n\n"),
        ("a\tb", "a\tb"),
        (r"\u00e4", "ä"),
        (r"say \"x", r"say \"x"),
        (r"C:\x", r"C:\x"),
        (r'"a\n"', '"a\n"'),
        ("plain", "plain"),
        ("\\", "\\"),
    ],
)
def test_escapes_of_stop_texts_are_those_of_json_and_others_stay(written: str, meant: str) -> None:
    assert unescaped(written) == meant


def test_a_prompt_comes_from_the_line_or_a_file_as_text_or_as_messages(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(b"Once\n\n")
    assert prompt_for("Hi", None, chat=False, system=None) == "Hi"
    assert prompt_for(None, path, chat=False, system=None) == "Once\n"
    assert prompt_for("Hi", None, chat=True, system=None) == [("user", "Hi")]
    assert prompt_for("Hi", None, chat=True, system="Be brief") == [("system", "Be brief"), ("user", "Hi")]
    with pytest.raises(typer.BadParameter):
        prompt_for("Hi", path, chat=False, system=None)
    path.write_bytes(b"\xff")
    with pytest.raises(ValidationError, match="not UTF-8"):
        prompt_for(None, path, chat=False, system=None)


def test_texts_to_embed_are_the_lines_of_a_file_that_say_something(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n\n  \ntwo\n")
    assert texts_for([], path) == ["one", "two"]
    assert texts_for(["a", " ", "b"], None) == ["a", "b"]


def test_cosine_similarities_are_those_of_directions() -> None:
    cosines = cosine_similarities(np.array([[2, 0], [0, 3], [1, 1], [0, 0]], np.float32))
    half = np.sqrt(0.5)
    expected = [[1, 0, half, 0], [0, 1, half, 0], [half, half, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
