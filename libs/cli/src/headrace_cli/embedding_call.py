"""Texts as vectors: read from what a person gave, embedded, shown or written."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from headrace_cli.documents import print_json
from headrace_cli.model_names import reference
from headrace_cli.presentation import table, words
from headrace_cli.session import Session
from headrace_cli.standard_input import decoded, read_standard_input
from headrace_cli.terminal import output

_TIMEOUT_S = 60.0
_TEXTS_PER_CALL = 32
_PAIRS_SHOWN_MAX = 50
_TEXT_SHOWN_CHARS = 60


def texts_for(texts: Sequence[str], file: Path | None) -> list[str]:
    """The texts of the command line, or the lines of a file or of standard input that are not empty.

    Raises:
        BadParameter: they were given twice, or there are none.
        ValidationError: what was read is not UTF-8.
        OSError: the file can't be read.
    """
    if texts and file is not None:
        raise typer.BadParameter("give either TEXT or --file")
    if file is not None:
        given = decoded(file.expanduser().read_bytes(), str(file)).splitlines()
    elif not texts or list(texts) == ["-"]:
        given = decoded(read_standard_input("Texts, one a line"), "standard input").splitlines()
    else:
        given = list(texts)
    given = [text for text in given if text.strip()]
    if not given:
        raise typer.BadParameter("there is no text to embed")
    return given


def embed_texts(session: Session, model: str, texts: list[str], *, npy: str | None, similarities: bool) -> None:
    """Embed and print: a table for people, a document with --json, an array with --npy.

    Raises:
        BadParameter: the text names no model.
        HeadraceError: the mesh refused it.
        OSError: the file can't be written.
    """
    named = reference(model)
    with session.client(timeout_s=_TIMEOUT_S) as client:
        parts = [
            client.embed(named.name, texts[start : start + _TEXTS_PER_CALL], version=named.model_version)
            for start in range(0, len(texts), _TEXTS_PER_CALL)
        ]
    vectors = np.concatenate(parts)
    if npy is not None:
        _write(npy, vectors)
    if session.as_json and npy != "-":
        rows = [{"text": text, "embedding": vector} for text, vector in zip(texts, vectors.tolist(), strict=True)]
        cosines = {"similarities": cosine_similarities(vectors).tolist()} if similarities else {}
        print_json({"model": named.name, "dimensions": vectors.shape[1], "embeddings": rows, **cosines})
    elif npy != "-":
        _print(texts, vectors, similarities=similarities)


def cosine_similarities(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each vector with each, shape (vectors, vectors); 0 for a vector of zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths == 0, 1, lengths)
    return np.asarray(directions @ directions.T, np.float32)


def _write(npy: str, vectors: NDArray[np.float32]) -> None:
    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    if npy == "-":
        sys.stdout.buffer.write(content.getvalue())
        sys.stdout.buffer.flush()
    else:
        Path(npy).expanduser().write_bytes(content.getvalue())


def _print(texts: Sequence[str], vectors: NDArray[np.float32], *, similarities: bool) -> None:
    console = output()
    if not similarities:
        shown = table("text", ">dimensions", "values")
        for text, vector in zip(texts, vectors, strict=True):
            values = ", ".join(f"{value:.4f}" for value in vector[:4]) + (", …" if len(vector) > 4 else "")
            shown.add_row(words(_short(text), "name"), str(len(vector)), values)
        console.print(shown)
        return
    cosines = cosine_similarities(vectors)
    pairs = sorted(combinations(range(len(texts)), 2), key=lambda pair: -cosines[pair])
    shown = table(">similarity", "text", "text")
    for first, second in pairs[:_PAIRS_SHOWN_MAX]:
        shown.add_row(f"{cosines[first, second]:.4f}", words(_short(texts[first])), words(_short(texts[second])))
    console.print(shown)
    if len(pairs) > _PAIRS_SHOWN_MAX:
        console.print(words(f"the {_PAIRS_SHOWN_MAX} most similar of {len(pairs)} pairs", "quiet"))


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_SHOWN_CHARS else text[: _TEXT_SHOWN_CHARS - 1] + "…"
