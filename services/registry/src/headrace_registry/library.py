"""What may be asked about models and versions: checks the request, then asks the store once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace_registry.field_rules import (
    DESCRIPTION_CHARS_MAX,
    check_model_name,
    check_pairs,
    check_text,
    check_version,
)
from headrace_registry.models import Model, ModelDraft, Version, model_conflict, model_not_found
from headrace_registry.paging import (
    models_position,
    models_token,
    page_of,
    page_size,
    versions_position,
    versions_token,
)
from headrace_registry.store import RegistryStore


class ModelLibrary:
    """The models of one tenant a call. `tenant_id` comes from the verified principal, never from a request.

    Besides what they name, all methods raise MODEL_NAME_INVALID and MODEL_VERSION_INVALID (INVALID_ARGUMENT), and
    DATABASE_UNAVAILABLE (UNAVAILABLE).
    """

    def __init__(self, *, store: RegistryStore) -> None:
        self._store = store

    async def create_model(self, tenant_id: str, *, name: str, description: str, metadata: Mapping[str, str]) -> Model:
        """The model, made by this call or by an equal one before.

        Raises:
            HeadraceError: FIELD_TOO_LONG, FIELD_INVALID (INVALID_ARGUMENT) or MODEL_ALREADY_EXISTS (ALREADY_EXISTS).
        """
        draft = ModelDraft(
            tenant_id=tenant_id,
            name=check_model_name(name, field="name"),
            description=check_text(description, field="description", chars_max=DESCRIPTION_CHARS_MAX),
            metadata=check_pairs(metadata, field="metadata"),
        )
        model, created = await self._store.create_model(draft)
        if not created and (model.description, model.metadata) != (draft.description, draft.metadata):
            raise model_conflict(name)
        return model

    async def model(self, tenant_id: str, name: str) -> Model:
        """One model.

        Raises:
            ModelError: MODEL_NOT_FOUND (NOT_FOUND).
        """
        model = await self._store.model(tenant_id, check_model_name(name, field="name"))
        if model is None:
            raise model_not_found(name)
        return model

    async def models(self, tenant_id: str, *, size: int, token: str) -> tuple[Sequence[Model], str]:
        """A page of models ordered by name, and the token of the next page.

        Raises:
            ValidationError: FIELD_INVALID or PAGE_TOKEN_INVALID (INVALID_ARGUMENT).
        """
        size = page_size(size)
        rows = await self._store.models(tenant_id, after_name=models_position(token), limit=size + 1)
        shown, last = page_of(rows, size)
        return shown, models_token(last.name) if last is not None else ""

    async def version(self, tenant_id: str, *, model: str, version: int) -> Version:
        """One version; 0 means the latest that is READY.

        Raises:
            ModelError: MODEL_NOT_FOUND or MODEL_VERSION_NOT_FOUND (NOT_FOUND).
        """
        check_model_name(model, field="model")
        check_version(version, zero="the latest")
        return await self._store.version(tenant_id, model, version)

    async def versions(self, tenant_id: str, *, model: str, size: int, token: str) -> tuple[Sequence[Version], str]:
        """A page of a model's versions, newest first, and the token of the next page.

        Raises:
            HeadraceError: MODEL_NOT_FOUND (NOT_FOUND); FIELD_INVALID or PAGE_TOKEN_INVALID (INVALID_ARGUMENT).
        """
        check_model_name(model, field="model")
        size = page_size(size)
        before = versions_position(token, model)
        rows = await self._store.versions(tenant_id, model, before=before, limit=size + 1)
        shown, last = page_of(rows, size)
        return shown, versions_token(model, last.version) if last is not None else ""

    async def archive_version(self, tenant_id: str, *, model: str, version: int) -> Version:
        """The version, now ARCHIVED.

        Raises:
            ModelError: MODEL_NOT_FOUND or MODEL_VERSION_NOT_FOUND (NOT_FOUND).
        """
        check_model_name(model, field="model")
        check_version(version, zero=None)
        return await self._store.archive_version(tenant_id, model, version)
