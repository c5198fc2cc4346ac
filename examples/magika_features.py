"""What magika's model wants to know about a file, and what its answers mean. Needs only numpy.

The model sees 2048 numbers a file: its first 1024 bytes and its last 1024, white space at the ends stripped, with 256
where the file is too short to fill them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 1024
BLOCK_BYTES = 4096
NO_BYTE = 256
MEANINGFUL_BYTES_MIN = 8
MANIFEST = Path(__file__).parents[1] / "libs/cli/src/headrace_cli/samples/magika/model.yaml"


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


def stacked_features(paths: list[Path]) -> tuple[list[Path], NDArray[np.int32]]:
    """The files that hold enough to tell, and one row for each of them, shape (files, 2048)."""
    rows = {path: features for path in paths if (features := file_features(path)) is not None}
    return list(rows), np.stack(list(rows.values())) if rows else np.empty((0, 2 * SIDE), np.int32)


def manifest_labels() -> list[str]:
    """The file types in the order of the model's outputs, read from the sample's manifest in this repository."""
    listed = re.search(r"class_labels: \[(.*?)\]", MANIFEST.read_text(), re.DOTALL)
    return re.findall(r"\w+", listed[1]) if listed else []


def print_table(paths: list[Path], scores: NDArray[np.float32], labels: list[str]) -> None:
    """One line a file: name, most probable type, its probability."""
    width = max(4, *(len(path.name) for path in paths))
    print(f"{'file':<{width}}  {'type':<16}  score")
    for path, row in zip(paths, scores, strict=True):
        best = int(row.argmax())
        print(f"{path.name:<{width}}  {labels[best]:<16}  {row[best]:6.1%}{'  (unsure)' if row[best] < 0.5 else ''}")
