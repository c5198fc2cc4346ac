"""`headrace.registry.internal.v1.ArtifactService`: bytes for runners, against tickets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from headrace.registry.internal.v1 import catalog_pb2 as pb
from headrace_common import catalogue
from headrace_common.call import MetadataMap
from headrace_common.errors import AuthError
from headrace_common.grpc_server import Call, RpcMethod, server_stream
from headrace_common.principal import TICKET_KEY, Principal, PrincipalVerifier
from headrace_registry.artifact_reader import ArtifactReader
from headrace_registry.store import RegistryStore

ARTIFACT_SERVICE = "headrace.registry.internal.v1.ArtifactService"
_TICKET_HOLDER = "any"


class ArtifactServicer:
    """Answers runners. A ticket opens the files of one version whose digests it names, and nothing else."""

    def __init__(self, *, store: RegistryStore, reader: ArtifactReader, verifier: PrincipalVerifier) -> None:
        self._store = store
        self._reader = reader
        self._verifier = verifier

    def authenticate(self, method: str, metadata: MetadataMap) -> Principal:
        """The holder of the ticket in a call's metadata.

        Raises:
            AuthError: TICKET_INVALID (UNAUTHENTICATED).
        """
        ticket = self._verifier.verify_ticket(metadata.get(TICKET_KEY))
        return Principal(tenant_id=ticket.tenant_id, roles=frozenset(), subject=f"ticket:{ticket.version_id}")

    async def read_artifact(
        self, request: pb.ReadArtifactRequest, call: Call
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        """Streams a file of the ticket's version.

        Raises:
            HeadraceError: TICKET_INVALID (UNAUTHENTICATED): the tenant has no such version, or the file is not one of
                those that the ticket names; MODEL_FILE_NOT_FOUND (NOT_FOUND); FIELD_INVALID (INVALID_ARGUMENT);
                what `ArtifactReader.read` raises.
        """
        ticket = self._verifier.verify_ticket(call.metadata.get(TICKET_KEY))
        version = await self._store.version_by_uid(ticket.tenant_id, ticket.version_id)
        if version is None:
            raise _not_covered()
        file = self._reader.file_of(version, request.path)
        if file.sha256 not in ticket.digests:
            raise _not_covered()
        async with aclosing(self._reader.read(ticket.tenant_id, file, offset=request.offset)) as parts:
            async for part in parts:
                yield pb.ReadArtifactResponse(chunk=part)

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The methods by name, for the service's handler."""
        return {
            "ReadArtifact": server_stream(
                self.read_artifact, pb.ReadArtifactRequest, pb.ReadArtifactResponse, role=_TICKET_HOLDER
            )
        }


def _not_covered() -> AuthError:
    return AuthError("the download ticket is not valid for this file", entry=catalogue.TICKET_INVALID)
