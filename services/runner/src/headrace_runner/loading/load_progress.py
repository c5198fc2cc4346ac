"""How far the load of a model version is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from headrace.gateway.v1 import mesh_pb2
from headrace_runner.backends.contract import TellsProgress


class LoadProgress:
    """Gathers it where it is known; what is told never goes back. Event loop only, but for `loads`.

    Args:
        size_bytes: Of the artefact.
    """

    def __init__(self, *, size_bytes: int) -> None:
        self._size_bytes = max(1, size_bytes)
        self._fetched_bytes: dict[str, int] = {}
        self._loaded: Callable[[], float] | None = None
        self._told = mesh_pb2.LoadProgress()

    def fetching(self, path: str, offset: int) -> None:
        """So much of a file is on disk."""
        self._fetched_bytes[path] = offset

    def fetched(self) -> None:
        """All files are on disk."""
        self._fetched_bytes = {"": self._size_bytes}

    def loads(self, backend: object, artifact_dir: Path) -> None:
        """A backend begins to load the artefact; in any thread."""
        if isinstance(backend, TellsProgress):
            self._loaded = lambda: backend.load_progress(artifact_dir)

    def news(self) -> mesh_pb2.LoadProgress | None:
        """How far it is, unless that was said before."""
        now = mesh_pb2.LoadProgress(
            fetched_ratio=max(self._told.fetched_ratio, _ratio(sum(self._fetched_bytes.values()) / self._size_bytes)),
            loaded_ratio=max(self._told.loaded_ratio, _ratio(self._ask())),
        )
        if now == self._told:
            return None
        self._told = now
        return now

    def _ask(self) -> float:
        # A backend may raise anything, and no load is to fail for this.
        with suppress(Exception):
            return self._loaded() if self._loaded is not None else 0.0
        return 0.0


def _ratio(value: float) -> float:
    """Within bounds, in whole percents: less is no news."""
    return round(min(max(value, 0.0), 1.0), 2)
