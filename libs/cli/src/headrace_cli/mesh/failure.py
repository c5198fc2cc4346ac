"""What stops a mesh from starting, in words for the person at the terminal."""

from __future__ import annotations

from pathlib import Path


class MeshError(Exception):
    """A mesh can't start or go on.

    Args:
        message: What happened and what to do about it.
        log: The log of the process at fault; its last lines are shown with the message.
    """

    def __init__(self, message: str, *, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log
