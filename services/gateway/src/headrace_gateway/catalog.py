"""Every servable version of every tenant, in memory, so that a request is resolved without an RPC."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1.manifest_pb2 import MODEL_TASK_GENERATE
from headrace.registry.v1.models_pb2 import VERSION_STATE_READY, Version
from headrace_common.catalogue import (
    CATALOG_NOT_READY,
    MODEL_NOT_FOUND,
    MODEL_VERSION_ARCHIVED,
    MODEL_VERSION_INVALID,
    MODEL_VERSION_NOT_FOUND,
)
from headrace_common.errors import ModelError, RouteUnavailable
from headrace_gateway.model_access import Policies, sees

_VERSION = re.compile(r"[1-9][0-9]{0,18}")
_NAME_CHARS_MAX = 128
_TOMBSTONES_MAX = 10_000
# An archived version is remembered to tell "archived" from "never existed"; the oldest are forgotten first.

LeftService = Callable[[str], None]
"""Called with the uid of a version that can't be served any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogVersion:
    """A version that can be served.

    Attributes:
        uid: Identifier across the mesh, never reused.
        version: Number, 1 or more; `version_text` is the same as the Open Inference Protocol writes it.
        proto: The registry's record with the manifest; shared, so nobody may change it.
        generates: Whether it continues prompts, so that its answers come in parts.
    """

    tenant_id: str
    uid: str
    model: str
    version: int
    version_text: str
    proto: Version
    generates: bool = False


Renewed = Callable[[CatalogVersion | None, CatalogVersion], None]
"""Called with what requests without a version went to until now, if to anything, and the newer version."""


@dataclass(slots=True)
class _Model:
    """The ready versions of one model by their text, the highest of them, and the one that is served in its place."""

    ready: dict[str, CatalogVersion] = field(default_factory=dict[str, CatalogVersion])
    latest: CatalogVersion | None = None
    held: CatalogVersion | None = None

    def put(self, version: CatalogVersion) -> None:
        self.ready[version.version_text] = version
        if self.latest is None or version.version >= self.latest.version:
            self.latest = version

    def drop(self, version_text: str) -> CatalogVersion | None:
        gone = self.ready.pop(version_text, None)
        if gone is not None and gone is self.latest:
            self.latest = max(self.ready.values(), key=lambda entry: entry.version, default=None)
        if gone is not None and gone is self.held:
            self.held = None
        return gone

    def served(self) -> CatalogVersion | None:
        """What requests without a version go to."""
        return self.held or self.latest

    def same(self, version: CatalogVersion | None) -> CatalogVersion | None:
        """The same version as it is known now; None when it is not ready any more."""
        found = self.ready.get(version.version_text) if version is not None else None
        return found if found is not None and version is not None and found.uid == version.uid else None


class Catalog:
    """The registry's versions as the feed tells them. One event loop; `resolve` is two dictionary look-ups.

    A snapshot replaces everything at once, when it is complete; until then, and while the feed is down, the former
    content goes on being served.

    Attributes:
        changes: Rises with every change of what is served.
    """

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], _Model] = {}
        self._by_uid: dict[str, CatalogVersion] = {}
        self._archived: dict[tuple[str, str, str], None] = {}
        self._ready = False
        self._left: list[LeftService] = []
        self._renewed: list[Renewed] = []
        self.changes = 0

    @property
    def ready(self) -> bool:
        """Whether a snapshot has been received since the process started."""
        return self._ready

    def add_listener(self, left: LeftService) -> None:
        """`left` is called on the event loop, after the change, for each version that leaves service."""
        self._left.append(left)

    def add_renewal_listener(self, renewed: Renewed) -> None:
        """`renewed` is called for each model that got a newer version, before any request goes there.

        With a snapshot it is called for every model of several versions that was not known before.
        """
        self._renewed.append(renewed)

    def replace(self, entries: Iterable[CatalogEntry]) -> None:
        """Takes a complete snapshot in place of everything known so far."""
        models: dict[tuple[str, str], _Model] = {}
        by_uid: dict[str, CatalogVersion] = {}
        for entry in entries:
            self._archived.pop(_key(entry), None)
            if entry.version.state == VERSION_STATE_READY:
                version = _version(entry)
                models.setdefault((version.tenant_id, version.model), _Model()).put(version)
                by_uid[version.uid] = version
        gone = [uid for uid in self._by_uid if uid not in by_uid]
        former, self._models, self._by_uid = self._models, models, by_uid
        self._ready = True
        self.changes += 1
        for key, model in models.items():
            self._renew(model, former.get(key))
        self._tell(gone)

    def apply(self, entries: Iterable[CatalogEntry]) -> None:
        """Takes what one revision changed."""
        gone: list[str] = []
        self.changes += 1
        for entry in entries:
            key = tenant_id, name, text = _key(entry)
            model = self._models.setdefault((tenant_id, name), _Model())
            before = replace(model)
            former = model.drop(text)
            if former is not None and former.uid != entry.version.uid:
                del self._by_uid[former.uid]
                gone.append(former.uid)
            if entry.version.state == VERSION_STATE_READY:
                self._archived.pop(key, None)
                version = self._by_uid[entry.version.uid] = _version(entry)
                model.put(version)
                self._renew(model, before)
                continue
            self._bury(key)
            if self._by_uid.pop(entry.version.uid, None) is not None:
                gone.append(entry.version.uid)
            self._renew(model, before)
            if not model.ready:
                del self._models[tenant_id, name]
        self._tell(gone)

    def resolve(
        self,
        tenant_id: str,
        model: str,
        version: str,
        *,
        version_field: str = "model_version",
        policies: Policies = (),
    ) -> CatalogVersion:
        """The version that a request means; an empty `version` means the highest that is ready, or is held for it.

        Args:
            tenant_id: Whose models to look at.
            model: Name of the model.
            version: Number of the version as text.
            version_field: What the request calls the version; a failure names it.
            policies: The caller's; a model that they don't let it see is exactly as one that never existed.

        Raises:
            ModelError: MODEL_VERSION_INVALID (INVALID_ARGUMENT), MODEL_NOT_FOUND or MODEL_VERSION_NOT_FOUND
                (NOT_FOUND; a foreign tenant's model is exactly as one that never existed), MODEL_VERSION_ARCHIVED
                (FAILED_PRECONDITION).
            RouteUnavailable: CATALOG_NOT_READY (UNAVAILABLE) before the first snapshot.
        """
        known = self._models.get((tenant_id, model))
        if policies and not sees(policies, model):
            # There is no tenant without a name, so nothing of it is known.
            tenant_id, known = "", None
        if known is not None:
            found = known.ready.get(version) if version else known.held or known.latest
            if found is not None:
                return found
        raise self._absent(tenant_id, model, version, version_field, exists=known is not None)

    def hold(self, version: CatalogVersion) -> None:
        """Requests without a version go to this one, until a call of `move_on`, or until it leaves service."""
        model = self._models.get((version.tenant_id, version.model))
        if model is not None and self._by_uid.get(version.uid) is not None:
            model.held = version
            self.changes += 1

    def move_on(self, tenant_id: str, model: str) -> None:
        """Requests without a version go to the newest one again."""
        known = self._models.get((tenant_id, model))
        if known is not None and known.held is not None:
            known.held = None
            self.changes += 1

    def newest(self, tenant_id: str, model: str, *, policies: Policies = ()) -> CatalogVersion:
        """The highest version that is ready, also while requests go to another one; raises as `resolve` does."""
        served = self.resolve(tenant_id, model, "", policies=policies)
        return self._models[tenant_id, model].latest or served

    def served(self) -> Iterator[CatalogVersion]:
        """What requests without a version go to, of every model of every tenant."""
        for model in self._models.values():
            version = model.served()
            if version is not None:
                yield version

    def find(self, tenant_id: str, model: str, version: str) -> CatalogVersion | None:
        """As `resolve`, with None for what isn't there."""
        known = self._models.get((tenant_id, model))
        if known is None:
            return None
        return known.ready.get(version) if version else known.served()

    def versions_of(self, tenant_id: str, model: str) -> list[CatalogVersion]:
        """The ready versions of a model in ascending order; empty when the tenant has no such model."""
        known = self._models.get((tenant_id, model))
        return sorted(known.ready.values(), key=lambda entry: entry.version) if known is not None else []

    def of_tenant(self, tenant_id: str, *, policies: Policies = ()) -> list[CatalogVersion]:
        """Every ready version of a tenant's models, by name and then by number. A pass over all tenants' models."""
        names = sorted(name for owner, name in self._models if owner == tenant_id and sees(policies, name))
        return [version for name in names for version in self.versions_of(tenant_id, name)]

    def by_uid(self, uid: str) -> CatalogVersion | None:
        """The ready version with this identifier."""
        return self._by_uid.get(uid)

    def __len__(self) -> int:
        return len(self._by_uid)

    def _absent(
        self, tenant_id: str, model: str, version: str, version_field: str, *, exists: bool
    ) -> ModelError | RouteUnavailable:
        if not self._ready:
            return RouteUnavailable(
                "this gateway has not received the model table yet", entry=CATALOG_NOT_READY, retry_after_s=0.5
            )
        shown = model[:_NAME_CHARS_MAX]
        if version and not _VERSION.fullmatch(version):
            return ModelError(
                f"{version_field} must be a whole number from 1, or empty for the newest one",
                entry=MODEL_VERSION_INVALID,
                field=version_field,
                context={"version": version[:_NAME_CHARS_MAX]},
            )
        if (tenant_id, model, version) in self._archived:
            return ModelError(
                f"version {version} of model '{shown}' is archived",
                entry=MODEL_VERSION_ARCHIVED,
                context={"model": shown, "version": version},
            )
        if exists:
            return ModelError(
                f"model '{shown}' has no version {version}",
                entry=MODEL_VERSION_NOT_FOUND,
                context={"model": shown, "version": version},
            )
        return ModelError(f"model '{shown}' was not found", entry=MODEL_NOT_FOUND, context={"model": shown})

    def _renew(self, model: _Model, before: _Model | None) -> None:
        """Keeps a hold over a change, while it holds anything back, and tells of a newer version."""
        held = model.same(before.held) if before is not None else None
        newest = model.latest
        model.held = held if held is not None and newest is not None and held.version < newest.version else None
        if newest is None or (before is not None and before.latest is not None and before.latest.uid == newest.uid):
            return
        served = model.same(before.served()) if before is not None else None
        if served.version < newest.version if served is not None else before is None and len(model.ready) > 1:
            for renewed in self._renewed:
                renewed(served, newest)

    def _bury(self, key: tuple[str, str, str]) -> None:
        self._archived[key] = None
        if len(self._archived) > _TOMBSTONES_MAX:
            del self._archived[next(iter(self._archived))]

    def _tell(self, uids: Iterable[str]) -> None:
        for uid in uids:
            for left in self._left:
                left(uid)


def _key(entry: CatalogEntry) -> tuple[str, str, str]:
    return entry.tenant_id, entry.version.model, str(entry.version.version)


def _version(entry: CatalogEntry) -> CatalogVersion:
    return CatalogVersion(
        tenant_id=entry.tenant_id,
        uid=entry.version.uid,
        model=entry.version.model,
        version=entry.version.version,
        version_text=str(entry.version.version),
        proto=entry.version,
        generates=entry.version.manifest.task == MODEL_TASK_GENERATE,
    )
