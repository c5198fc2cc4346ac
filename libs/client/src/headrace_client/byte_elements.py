"""BYTES tensors on the wire: before each element its length, four bytes, little-endian."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = Struct("<I")
_ELEMENT_BYTES_MAX = (1 << 32) - 1


def packed(elements: Iterable[object]) -> bytes:
    """The elements in their order; texts as UTF-8, bytes as they are.

    Raises:
        TypeError: an element is neither text nor bytes.
        ValueError: a text can't be UTF-8 (a lone surrogate), or an element has 4 GiB or more.
    """
    parts: list[bytes] = []
    for element in elements:
        if isinstance(element, bytes):
            content = element
        elif isinstance(element, str):
            content = element.encode()
        else:
            raise TypeError(type(element).__name__)
        if len(content) > _ELEMENT_BYTES_MAX:
            raise ValueError("an element has 4 GiB or more")
        parts += (_LENGTH.pack(len(content)), content)
    return b"".join(parts)


def unpacked(raw: bytes) -> NDArray[Any]:
    """All elements as a one-dimensional object array of `bytes`.

    Raises:
        ValueError: the lengths don't add up.
    """
    elements = list(_split(raw))
    array: NDArray[Any] = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def _split(raw: bytes) -> Iterator[bytes]:
    position, end = 0, len(raw)
    while position < end:
        start = position + _LENGTH.size
        if start > end:
            raise ValueError("a length is cut off")
        position = start + _LENGTH.unpack_from(raw, start - _LENGTH.size)[0]
        if position > end:
            raise ValueError("an element is cut off")
        yield raw[start:position]
