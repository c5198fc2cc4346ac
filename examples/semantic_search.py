"""Finds the passages of text files that are closest in meaning to a question, by embeddings of a real model.

    .venv/bin/python examples/semantic_search.py [--endpoint HOST:PORT] [--api-key KEY] [--folder FOLDER] [QUESTION]

Every passage becomes a vector, and so does the question; the cosine of the angle between two vectors says how alike
their texts are. The sample model was made for other things and knows little; push a better one and name it by --model.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace_client import Client, HeadraceError

REPOSITORY = Path(__file__).resolve().parents[1]
QUESTION = "How long may a call take before it times out?"
SUFFIXES = {".md", ".rst", ".txt"}
PASSAGE_CHARS_MAX = 300
PASSAGES_PER_CALL = 4


class Passage(NamedTuple):
    """Where a text stands, and its beginning."""

    path: Path
    line: int
    text: str


def passages_of(path: Path) -> Iterator[Passage]:
    """The paragraphs of a file that are more than a few words, shortened."""
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", path.read_text(errors="replace")):
        text = " ".join(paragraph.split())
        if len(text.split()) >= 8 and text[0] not in "|`<":  # Tables and code say little in words.
            yield Passage(path, line, text[:PASSAGE_CHARS_MAX])
        line += paragraph.count("\n")


def embedded(client: Client, model: str, texts: list[str]) -> NDArray[np.float32]:
    """Vectors of length 1, shape (texts, dimensions)."""
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(texts), PASSAGES_PER_CALL):
        parts.append(client.embed(model, texts[start : start + PASSAGES_PER_CALL], timeout_s=120))
        if sys.stderr.isatty():
            print(f"\r{start} of {len(texts)}", end="\r", file=sys.stderr)
    vectors = np.concatenate(parts)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def search(client: Client, model: str, question: str, passages: list[Passage], *, top: int) -> None:
    """Prints the best passages, best first."""
    started_s = time.monotonic()
    vectors = embedded(client, model, [passage.text for passage in passages])
    took_s = time.monotonic() - started_s
    (asked,) = embedded(client, model, [question])
    similarities = vectors @ asked
    best: list[int] = np.argsort(-similarities, kind="stable")[:top].tolist()
    for number in best:
        passage = passages[number]
        place = passage.path.relative_to(REPOSITORY) if passage.path.is_relative_to(REPOSITORY) else passage.path
        print(f"{similarities[number]:.4f}  {place}:{passage.line}  {passage.text[:100]}")
    print(f"{len(passages)} passages as vectors of {vectors.shape[1]} numbers in {took_s:.1f} s")


def all_passages(folder: Path) -> list[Passage]:
    """Those of a folder's text files, in the order of their names.

    Raises:
        OSError: the folder or a file in it can't be read.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    return [passage for path in files for passage in passages_of(path)]


def one_or_more(text: str) -> int:
    """A number of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of 1 or more")
    return int(text)


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached."""
    parser = argparse.ArgumentParser(description="Search text files by meaning.")
    parser.add_argument("question", nargs="?", default=QUESTION, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "docs", help="text files, default: %(default)s")
    parser.add_argument("--model", default="smollm2-embed", help="default: %(default)s")
    parser.add_argument("--top", type=one_or_more, default=5, metavar="N", help="passages to show, default %(default)s")
    parser.add_argument(
        "--limit", type=one_or_more, default=80, metavar="N", help="passages to read, default %(default)s"
    )
    parser.add_argument("--endpoint", help="gateway, such as 127.0.0.1:8081")
    parser.add_argument("--api-key", help="the key, or @FILE")
    options = parser.parse_args()
    try:
        passages = all_passages(options.folder)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    if not passages:
        parser.error(f"no text in {options.folder}")
    passages = passages[:: math.ceil(len(passages) / options.limit)]  # Some of every file.
    try:
        with Client(options.endpoint, api_key=options.api_key) as client:
            search(client, options.model, options.question, passages, top=options.top)
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
