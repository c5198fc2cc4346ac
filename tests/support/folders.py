"""Folders for tests that start a mesh."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_folder() -> Generator[Path]:
    """A folder that every account may traverse, removed afterwards.

    Pytest's own folders belong to its user alone: run by root, a mesh would keep its database out of them, where
    nobody removes it.
    """
    made = Path(tempfile.mkdtemp(prefix="headrace-test-mesh-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
