"""What magika's model wants to know about a file. Needs only numpy.

The model sees 2048 numbers a file: its first 1024 bytes and its last 1024, white space at the ends stripped, with 256
where the file is too short to fill them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 1024
BLOCK_BYTES = 4096
NO_BYTE = 256
MEANINGFUL_BYTES_MIN = 8
REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT_FILES = [
    *(REPOSITORY / name for name in ("README.md", "Makefile", "pyproject.toml", "buf.yaml", "LICENSE")),
    Path(__file__),
    Path(sys.executable),
]


def file_features(path: Path) -> NDArray[np.int32] | None:
    """The model's input for one file, shape (2048,); None when the file holds too little to tell its type."""
    with path.open("rb") as file:
        head = file.read(BLOCK_BYTES)
        file.seek(max(0, path.stat().st_size - BLOCK_BYTES))
        tail = file.read(BLOCK_BYTES)
    head, tail = head.lstrip()[:SIDE], tail.rstrip()[-SIDE:]
    if len(head) < MEANINGFUL_BYTES_MIN:
        return None
    features = np.full(2 * SIDE, NO_BYTE, np.int32)
    features[: len(head)] = np.frombuffer(head, np.uint8)
    features[2 * SIDE - len(tail) :] = np.frombuffer(tail, np.uint8)
    return features


def features_by_file(paths: Iterable[Path]) -> dict[Path, NDArray[np.int32]]:
    """One row for each file that holds enough to tell, shape (1, 2048): the input of one request."""
    rows = ((path, file_features(path)) for path in paths if path.is_file())
    return {path: row[None] for path, row in rows if row is not None}


def print_type(path: Path, label: str, score: float) -> None:
    """One line: name, most probable type, its probability."""
    print(f"{path.name:<24}  {label:<16}  {score:6.1%}{'  (unsure)' if score < 0.5 else ''}")
