"""Bodies that come as `gzip` or `deflate`: inflated piece by piece, so that a small one can't fill memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from headrace_client import failures
from headrace_client.errors import ValidationError

_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_PIECE_BYTES = 256 << 10


class Inflater:
    """Inflates one body. Whoever takes the pieces bounds their sum.

    Args:
        encoding: One that `takes` takes.
    """

    def __init__(self, encoding: str) -> None:
        self._stream = zlib.decompressobj(_WINDOWS[encoding])
        self._encoding = encoding

    @staticmethod
    def takes(encoding: str) -> bool:
        """Whether it is known: `gzip`, or `deflate` with zlib's frame around it."""
        return encoding in _WINDOWS

    def pieces(self, compressed: bytes) -> Iterator[bytes]:
        """What a part of the body gives, in pieces of at most 256 KiB, inflated as they are asked for.

        Raises:
            ValidationError: REQUEST_MALFORMED, it isn't of that encoding, or goes on after its end.
        """
        left = compressed
        while left:
            try:
                piece = self._stream.decompress(left, _PIECE_BYTES)
            except zlib.error:
                raise self._malformed("can't be inflated") from None
            if self._stream.unused_data:
                raise self._malformed("goes on after its end")
            if piece:
                yield piece
            left = self._stream.unconsumed_tail

    def finish(self) -> Iterator[bytes]:
        """What is left at the end of the body.

        Raises:
            ValidationError: REQUEST_MALFORMED, the end is missing.
        """
        if rest := self._stream.flush():
            yield rest
        if not self._stream.eof:
            raise self._malformed("is cut off")

    def _malformed(self, why: str) -> ValidationError:
        return ValidationError(f"the {self._encoding} body {why}", failures.REQUEST_MALFORMED)
