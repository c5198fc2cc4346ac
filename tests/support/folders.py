"""Folders for tests that start a database or a mesh."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM_BYTES_MIN = 8 << 30


def temporary_root() -> Path:
    """Where temporary folders with many small files belong: in memory, where there is plenty of it.

    To copy an empty database takes a tenth of the time there. Who sets TMPDIR has it their way.
    """
    if "TMPDIR" not in os.environ and _MEMORY.is_dir():
        about = os.statvfs(_MEMORY)
        roomy = about.f_bavail * about.f_frsize >= _ROOM_BYTES_MIN
        if roomy and not about.f_flag & os.ST_NOEXEC and os.access(_MEMORY, os.W_OK):
            return _MEMORY
    return Path(tempfile.gettempdir())


@contextmanager
def open_folder() -> Generator[Path]:
    """A folder that every account may traverse, removed afterwards.

    Pytest's own folders belong to its user alone: run by root, a mesh would keep its database out of them, where
    nobody removes it.
    """
    made = Path(tempfile.mkdtemp(prefix="headrace-test-mesh-", dir=temporary_root()))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
