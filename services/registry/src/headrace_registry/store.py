"""The port between models and where they are kept. Two adapters keep it: PostgreSQL and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace_registry.models import Model, ModelDraft, Segment, Version, VersionDraft


class RegistryStore(Protocol):
    """Models, versions and the segments of their files. Every method is one transaction.

    All methods raise `StorageUnavailable` (UNAVAILABLE) while the store can't be reached; a write that fails so may
    or may not have taken effect. `tenant_id` is also the scope: rows of other tenants don't exist for the call.
    """

    async def create_model(self, draft: ModelDraft) -> tuple[Model, bool]:
        """The stored model, and whether this call made it; one that was there stays as it is."""
        ...

    async def model(self, tenant_id: str, name: str) -> Model | None:
        """One model, or None."""
        ...

    async def models(self, tenant_id: str, *, after_name: str, limit: int) -> Sequence[Model]:
        """Up to `limit` models ordered by name (byte by byte), beginning after `after_name` (empty: at the start)."""
        ...

    async def register_version(self, draft: VersionDraft) -> tuple[Version, bool]:
        """The registered version, and whether this call made it.

        Creates the model where it is missing. A draft without a number is the latest READY version if that says the
        same, so that repeating a call whose answer was lost makes no second version. Of several drafts of one version
        exactly one is registered; the others get that one if they say the same.

        Raises:
            ModelError: MODEL_VERSION_CONFLICT (ALREADY_EXISTS): the version exists and says something else.
        """
        ...

    async def version(self, tenant_id: str, model: str, version: int) -> Version:
        """One version; 0 means the highest that is READY.

        Raises:
            ModelError: MODEL_NOT_FOUND or MODEL_VERSION_NOT_FOUND (NOT_FOUND).
        """
        ...

    async def version_by_uid(self, tenant_id: str, uid: str) -> Version | None:
        """One version of the tenant, or None."""
        ...

    async def versions(self, tenant_id: str, model: str, *, before: int, limit: int) -> Sequence[Version]:
        """Up to `limit` versions with numbers below `before`, highest first.

        Raises:
            ModelError: MODEL_NOT_FOUND (NOT_FOUND).
        """
        ...

    async def archive_version(self, tenant_id: str, model: str, version: int) -> Version:
        """The version, now ARCHIVED. One that was archived before keeps its time.

        Raises:
            ModelError: MODEL_NOT_FOUND or MODEL_VERSION_NOT_FOUND (NOT_FOUND).
        """
        ...

    async def segments(self, tenant_id: str, file_sha256: str) -> Sequence[Segment]:
        """The segments of a content in order; empty where the tenant doesn't have it."""
        ...
