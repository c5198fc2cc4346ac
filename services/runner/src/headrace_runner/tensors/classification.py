"""The classification extension: the best classes of an output, as texts, in place of its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from headrace_runner.tensors.datatypes import Array

CLASSIFIABLE = frozenset(
    ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64")
)
"""Datatypes of outputs that classes can be made of."""


def best_classes(scores: Array, count: int, labels: Sequence[str], *, batched: bool) -> Array:
    """The `count` highest scores as `score:index` or `score:index:label`, best first, equal ones by index, NaN last.

    Args:
        scores: Numbers, one for each class; the axes of one row count as one axis.
        count: At least 1; fewer come back where there are fewer scores.
        labels: Names of the classes by index; indices beyond have none.
        batched: Whether the first axis counts rows, each of which has classes of its own.

    Returns:
        An object array of bytes of shape (rows, classes), without batching (classes,).
    """
    leading = scores.shape[:1] if batched else ()
    per_row = math.prod(scores.shape[len(leading) :])
    rows = scores.reshape(*(leading or (1,)), per_row)
    ranked = np.where(np.isnan(rows), -np.inf, rows) if rows.dtype.kind == "f" else rows
    # The last of a stable ascending order of the reversed scores: highest first, lower index first among equals.
    order = per_row - 1 - np.argsort(ranked[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count]
    whole = rows.dtype.kind != "f"
    texts = np.empty(order.shape, dtype=object)
    for row, indices in enumerate(order):
        for place, index in enumerate(indices):
            texts[row, place] = _class(rows[row, index], int(index), labels, whole=whole)
    return texts.reshape(*leading, order.shape[1])


def _class(score: float, index: int, labels: Sequence[str], *, whole: bool) -> bytes:
    text = f"{int(score)}:{index}" if whole else f"{float(score):f}:{index}"
    return (f"{text}:{labels[index]}" if index < len(labels) else text).encode()
