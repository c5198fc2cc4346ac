"""Models and versions in memory: the twin that says in few lines what the PostgreSQL store must do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC

from headrace_common.clock import Clock
from headrace_common.revision_feed import FeedHead
from headrace_registry.catalog_history import Change, Snapshot
from headrace_registry.models import (
    Content,
    Model,
    ModelDraft,
    Segment,
    Version,
    VersionDraft,
    VersionFile,
    VersionState,
    model_not_found,
    version_conflict,
    version_not_found,
)


class MemoryRegistryStore:
    """A `RegistryStore` and its `CatalogHistory`. Nothing awaits inside, so every method is atomic on one loop."""

    def __init__(self, *, clock: Clock, epoch: str = "memory") -> None:
        self._clock = clock
        self._epoch = epoch
        self._models: dict[tuple[str, str], Model] = {}
        self._versions: dict[tuple[str, str, int], Version] = {}
        self._contents: dict[tuple[str, str], Content] = {}
        self._changes: list[tuple[str, str, int]] = []

    async def create_model(self, draft: ModelDraft) -> tuple[Model, bool]:
        key = (draft.tenant_id, draft.name)
        created = key not in self._models
        if created:
            self._models[key] = Model(
                tenant_id=draft.tenant_id,
                name=draft.name,
                description=draft.description,
                metadata=dict(draft.metadata),
                create_time=self._clock.now().astimezone(UTC),
                latest_version=0,
            )
        return self._shown(self._models[key]), created

    async def model(self, tenant_id: str, name: str) -> Model | None:
        known = self._models.get((tenant_id, name))
        return self._shown(known) if known is not None else None

    async def models(self, tenant_id: str, *, after_name: str, limit: int) -> Sequence[Model]:
        names = sorted(name for owner, name in self._models if owner == tenant_id and name > after_name)
        return [self._shown(self._models[tenant_id, name]) for name in names[:limit]]

    async def register_version(self, draft: VersionDraft) -> tuple[Version, bool]:
        owner, model = draft.tenant_id, draft.model
        known = self._versions.get((owner, model, draft.version or self._latest(owner, model)))
        if known is not None and draft.same_as(known):
            return known, False
        if known is not None and draft.version:
            raise version_conflict(model, draft.version)
        number = draft.version or max(self._numbers(owner, model), default=0) + 1
        key = (owner, model, number)
        await self.create_model(ModelDraft(tenant_id=draft.tenant_id, name=draft.model))
        for file in draft.files:
            self._contents.setdefault((draft.tenant_id, file.content.sha256.hex()), file.content)
        self._versions[key] = Version(
            tenant_id=draft.tenant_id,
            model=draft.model,
            version=number,
            uid=draft.uid,
            state=VersionState.READY,
            manifest=draft.manifest,
            stated_manifest=draft.stated_manifest,
            files=[
                VersionFile(path=file.path, size_bytes=file.content.size_bytes, sha256=file.content.sha256.hex())
                for file in sorted(draft.files, key=lambda file: file.path)
            ],
            create_time=self._clock.now().astimezone(UTC),
            archive_time=None,
        )
        self._changes.append(key)
        return self._versions[key], True

    async def version(self, tenant_id: str, model: str, version: int) -> Version:
        if (tenant_id, model) not in self._models:
            raise model_not_found(model)
        number = version or self._latest(tenant_id, model)
        known = self._versions.get((tenant_id, model, number))
        if known is None:
            raise version_not_found(model, version)
        return known

    async def version_by_uid(self, tenant_id: str, uid: str) -> Version | None:
        return next((v for v in self._versions.values() if v.tenant_id == tenant_id and v.uid == uid), None)

    async def versions(self, tenant_id: str, model: str, *, before: int, limit: int) -> Sequence[Version]:
        if (tenant_id, model) not in self._models:
            raise model_not_found(model)
        numbers = sorted((n for n in self._numbers(tenant_id, model) if n < before), reverse=True)
        return [self._versions[tenant_id, model, number] for number in numbers[:limit]]

    async def archive_version(self, tenant_id: str, model: str, version: int) -> Version:
        known = await self.version(tenant_id, model, version)
        if known.state is VersionState.READY:
            known = replace(known, state=VersionState.ARCHIVED, archive_time=self._clock.now().astimezone(UTC))
            self._versions[tenant_id, model, version] = known
            self._changes.append((tenant_id, model, version))
        return known

    async def segments(self, tenant_id: str, file_sha256: str) -> Sequence[Segment]:
        content = self._contents.get((tenant_id, file_sha256))
        return list(content.segments) if content is not None else []

    async def head(self) -> FeedHead:
        return FeedHead(epoch=self._epoch, revision=len(self._changes))

    async def changes(self, *, after_revision: int, limit: int) -> Sequence[Change]:
        found = list(enumerate(self._changes, start=1))[after_revision : after_revision + limit]
        return [Change(revision=revision, version=self._versions[key]) for revision, key in found]

    async def snapshot(self) -> Snapshot:
        ready = [known for _, known in sorted(self._versions.items()) if known.state is VersionState.READY]
        return Snapshot(head=await self.head(), versions=ready)

    def _numbers(self, tenant_id: str, model: str) -> list[int]:
        return [number for owner, name, number in self._versions if (owner, name) == (tenant_id, model)]

    def _latest(self, tenant_id: str, model: str) -> int:
        versions = (self._versions[tenant_id, model, number] for number in self._numbers(tenant_id, model))
        return max((known.version for known in versions if known.state is VersionState.READY), default=0)

    def _shown(self, model: Model) -> Model:
        return replace(model, latest_version=self._latest(model.tenant_id, model.name))
