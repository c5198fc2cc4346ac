"""Logs of the mesh's processes: one file each, bounded in size."""

from __future__ import annotations

import shutil
from pathlib import Path

_LARGEST_BYTES = 16 << 20
_TAIL_BYTES = 16 << 10


def keep_bounded(path: Path, *, largest_bytes: int = _LARGEST_BYTES) -> bool:
    """Move a log that has grown large to `<name>.1`, replacing that, and go on with an empty one; True if it did.

    The writing process holds the file open, so the content is copied and the file truncated. Processes write in append
    mode and go on at the new end; lines written between copy and truncation are lost.
    """
    try:
        if path.stat().st_size <= largest_bytes:
            return False
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        with path.open("r+b") as log:
            log.truncate(0)
    except FileNotFoundError:
        return False
    return True


def set_aside(folder: Path) -> None:
    """Move the logs of the run before to `<name>.1`, so that each run begins with empty ones."""
    for log in folder.glob("*.log"):
        log.replace(log.with_name(log.name + ".1"))


def last_lines(path: Path, *, count: int = 12) -> list[str]:
    """The end of a log, for the person who has to find out what went wrong."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]
