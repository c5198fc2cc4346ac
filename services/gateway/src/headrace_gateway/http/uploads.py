"""Room for uploads of models: how many at once, and where their files wait for the registry."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from headrace_common import catalogue
from headrace_gateway.http.failures import failed


class Uploads:
    """Counts the uploads under way. Event loop only.

    Args:
        folder: Where files are put.
        uploads_max: How many at once.
    """

    def __init__(self, *, folder: Path, uploads_max: int) -> None:
        self.folder = folder
        self._uploads_max = uploads_max
        self.open = 0

    @contextmanager
    def place(self) -> Generator[None]:
        """One upload, until the block is left.

        Raises:
            HeadraceError: SERVER_OVERLOADED, there are too many.
        """
        if self.open >= self._uploads_max:
            raise failed(
                catalogue.SERVER_OVERLOADED,
                f"the front takes {self._uploads_max} uploads at once",
                context={"limit": str(self._uploads_max)},
                retry_after_s=5.0,
            )
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
