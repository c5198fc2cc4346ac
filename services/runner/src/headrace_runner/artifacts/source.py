"""Where artefact bytes come from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol


class ArtifactSource(Protocol):
    """Reads files of a version against a ticket."""

    def read(self, *, ticket: str, path: str, offset: int) -> AsyncGenerator[bytes, None]:
        """Streams a file from byte `offset` on.

        Raises:
            HeadraceError: TICKET_INVALID, REGISTRY_UNAVAILABLE and others, while iterating; `retryable` says
                whether to go on from where it broke.
        """
        ...
