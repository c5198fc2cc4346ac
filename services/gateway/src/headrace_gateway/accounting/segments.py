"""The files of a spool: each has its room from the beginning, so that writing to it needs no system call."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SEGMENT_BYTES = 4 << 20
PORTION_BYTES = 256 << 10
"""About how much quota is sent at once."""
_SUFFIX = ".segment"


class Portion(NamedTuple):
    """What a file has up to some place: the sequence of the last record, and how many records the spool has had."""

    end: int
    through: int
    events: int


@dataclass(slots=True, kw_only=True, eq=False)
class Segment:
    """One file.

    Attributes:
        end: Where its last record ends; of the one that is written to, the spool knows.
        last_event: Sequence of its last record; 0 while there is none.
        portions: What of it is sent at once, each up to where the next begins; the last one may be yet to come.
    """

    path: Path
    end: int = 0
    last_event: int = 0
    portions: list[Portion] = field(default_factory=list[Portion])


def create(folder: Path, number: int, size: int) -> tuple[Segment, mmap.mmap]:
    """Makes a file and gives it its room.

    Raises:
        OSError: There is no room, or the folder can't be written to.
    """
    path = folder / f"{number:010d}{_SUFFIX}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(descriptor, 0, size)
            return Segment(path=path), mmap.mmap(descriptor, size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)


def existing(folder: Path) -> list[tuple[int, Path]]:
    """The numbered files of a folder in their order."""
    return sorted((int(path.stem), path) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())


def mapped(path: Path) -> mmap.mmap | None:
    """A file's content to read; None where it has none, because its maker ended before it had its room."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return None
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
