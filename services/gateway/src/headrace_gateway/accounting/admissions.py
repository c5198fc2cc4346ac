"""The calls that are open: each has a place in a mapped file until its end is written."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from zlib import crc32

from headrace_gateway.accounting import records

PLACE_BYTES = 3_072
"""A record of an admission with the longest texts, behind its length and checksum."""
_PLACES_MORE = 512
_HEADER = struct.Struct("<II")
_NOTHING = bytes(4)
_pack_header = _HEADER.pack


class Admissions:
    """A file of places. Taking and freeing one costs no system call; they are used again at once, so few are touched.

    Args:
        path: Of the file; it is made, or goes on with what is in it.

    Attributes:
        free: Places that are not in use; while there is none, it must grow before the next call.

    Raises:
        OSError: There is no room.
    """

    def __init__(self, *, path: Path) -> None:
        self._path = path
        self.free: list[int] = []
        self._places: dict[int, int] = {}
        self._written: mmap.mmap | None = None
        for admission, (place, _) in read(path).items():
            self._places[admission] = place
        self.grow()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the calls."""
        return tuple(self._places)

    def __contains__(self, admission: int) -> bool:
        return admission in self._places

    def add(self, admission: int, body: bytes) -> None:
        """Writes what is known of a call; a place is free."""
        self._places[admission] = at = self.free.pop()
        assert self._written is not None, "it isn't closed"
        self._written[at : at + 8 + len(body)] = _pack_header(len(body), crc32(body)) + body

    def remove(self, admission: int) -> None:
        """The call's end is written."""
        at = self._places.pop(admission)
        assert self._written is not None, "it isn't closed"
        self._written[at : at + 4] = _NOTHING
        self.free.append(at)

    def grow(self) -> None:
        """Makes more places.

        Raises:
            OSError: There is no room.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(descriptor).st_size // PLACE_BYTES * PLACE_BYTES
            size = before + _PLACES_MORE * PLACE_BYTES
            os.posix_fallocate(descriptor, 0, size)
            former, self._written = self._written, mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        if former is not None:
            former.close()
            begin = before
        else:
            begin = 0
        taken = set(self._places.values())
        free = [at for at in range(begin, size, PLACE_BYTES) if at not in taken]
        # The first ones first: the same few pages over and over.
        self.free = [*reversed(free), *self.free]

    def close(self) -> None:
        """Lets go of the file."""
        if self._written is not None:
            self._written.close()
            self._written = None


def read(path: Path) -> dict[int, tuple[int, bytes]]:
    """Of each call that has a place: where it is, and what is known of it. One that was being written is none.

    Raises:
        OSError: The file can't be read.
    """
    found: dict[int, tuple[int, bytes]] = {}
    content = path.read_bytes() if path.exists() else b""
    for at in range(0, len(content) - PLACE_BYTES + 1, PLACE_BYTES):
        length, checksum = _HEADER.unpack_from(content, at)
        body = content[at + _HEADER.size : at + _HEADER.size + length]
        if 0 < length <= PLACE_BYTES - _HEADER.size and crc32(body) == checksum:
            found[records.admission_of(body)] = (at, body)
    return found
