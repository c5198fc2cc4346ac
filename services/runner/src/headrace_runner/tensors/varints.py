"""Decodes and encodes packed varints in bulk: millions of elements must not hold the interpreter for seconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace_common import wire

_BLOCK_BYTES = 1 << 18
_VARINT_BYTES_MAX = 10


def decode_varints(packed: memoryview) -> npt.NDArray[np.uint64]:
    """Decodes a packed run of varints, each to its lowest 64 bits.

    Works in blocks, so that intermediate arrays stay small, and in operations that let other threads run.

    Raises:
        ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT): the run ends within a varint, or one is too long.
    """
    source = np.frombuffer(packed, dtype=np.uint8)
    if not source.size:
        return np.empty(0, dtype=np.uint64)
    if source[-1] & 0x80:
        raise wire.malformed()
    if source.max() < 0x80:
        return source.astype(np.uint64)
    blocks: list[npt.NDArray[np.uint64]] = []
    start = 0
    while start < source.size:
        stop = min(start + _BLOCK_BYTES, source.size)
        # Back up to the end of a whole varint; one that is longer than ten bytes leaves none.
        while source[stop - 1] & 0x80:
            stop -= 1
            if stop == start:
                raise wire.malformed()
        blocks.append(_decode_block(source[start:stop]))
        start = stop
    return np.concatenate(blocks)


def _decode_block(source: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    ends = np.flatnonzero(source < 0x80)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > _VARINT_BYTES_MAX:
        raise wire.malformed()
    starts = ends - lengths + 1
    values = (source[starts] & 0x7F).astype(np.uint64)
    for place in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > place)
        # Bits beyond the 64th fall off, as protobuf does it.
        values[longer] |= (source[starts[longer] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
    return values


def encode_varints(values: npt.NDArray[np.uint64]) -> bytes:
    """Encodes each value as a varint, one after another; works in blocks as `decode_varints` does."""
    if not values.size:
        return b""
    if values.max() < 0x80:
        return values.astype(np.uint8).tobytes()
    return b"".join(
        _encode_block(values[start : start + _BLOCK_BYTES]) for start in range(0, values.size, _BLOCK_BYTES)
    )


def _encode_block(values: npt.NDArray[np.uint64]) -> bytes:
    lengths = np.ones(values.size, dtype=np.int64)
    for place in range(1, _VARINT_BYTES_MAX):
        lengths += values >= np.uint64(1 << 7 * place)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    packed = np.empty(int(ends[-1]), dtype=np.uint8)
    for place in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > place)
        low = (values[longer] >> np.uint64(7 * place)).astype(np.uint8) & np.uint8(0x7F)
        packed[starts[longer] + place] = low | ((lengths[longer] > place + 1).astype(np.uint8) << np.uint8(7))
    return packed.tobytes()
