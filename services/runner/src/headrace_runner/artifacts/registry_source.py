"""Artefact bytes from the registry's ArtifactService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from headrace.registry.internal.v1.catalog_pb2 import ReadArtifactRequest, ReadArtifactResponse
from headrace_common import catalogue
from headrace_common.errors import RouteUnavailable
from headrace_common.grpc_client import Caller
from headrace_common.principal import TICKET_KEY

_METHOD = "/headrace.registry.internal.v1.ArtifactService/ReadArtifact"


class RegistrySource:
    """Reads artefacts with the ticket that came with a want; the runner has no other access to the registry.

    Args:
        caller: Calls the registry's internal listener.
        silence_max_s: How long the registry may send nothing before the stream counts as broken.
    """

    def __init__(self, *, caller: Caller, silence_max_s: float = 30.0) -> None:
        self._caller = caller
        self._silence_max_s = silence_max_s

    async def read(self, *, ticket: str, path: str, offset: int) -> AsyncGenerator[bytes, None]:
        """Streams a file from byte `offset` on.

        Raises:
            HeadraceError: TICKET_INVALID (UNAUTHENTICATED), OBJECT_NOT_FOUND, REGISTRY_UNAVAILABLE (UNAVAILABLE),
                or what else the registry answers.
        """
        request = ReadArtifactRequest(path=path, offset=offset)
        stream = self._caller.stream(_METHOD, request, ReadArtifactResponse, metadata=((TICKET_KEY, ticket),))
        async with aclosing(stream) as responses:
            while True:
                try:
                    async with asyncio.timeout(self._silence_max_s):
                        response = await anext(responses, None)
                except TimeoutError:
                    raise RouteUnavailable(
                        "the registry does not send the model's file", entry=catalogue.REGISTRY_UNAVAILABLE
                    ) from None
                except RouteUnavailable as error:
                    if error.entry is not catalogue.UPSTREAM_UNAVAILABLE:
                        raise
                    raise RouteUnavailable(
                        "the registry can't be reached", entry=catalogue.REGISTRY_UNAVAILABLE
                    ) from None
                if response is None:
                    return
                yield response.chunk
