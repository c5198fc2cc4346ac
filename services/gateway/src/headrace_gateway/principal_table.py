"""All keys and tenants in memory, as the quota service's feed tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.quota.internal.v1.principals_pb2 import KeyRecord, TenantRecord
from headrace.quota.v1 import tenants_pb2
from headrace.quota.v1.quotas_pb2 import Limit
from headrace_common.features import OFF
from headrace_common.principal import ModelPolicy, Principal

_ROLE_NAMES = {
    tenants_pb2.ROLE_VIEWER: "viewer",
    tenants_pb2.ROLE_USER: "user",
    tenants_pb2.ROLE_MODEL_ADMIN: "model_admin",
    tenants_pb2.ROLE_ADMIN: "admin",
}
_ALL_ON: frozenset[str] = frozenset()

_ACTION_NAMES = {
    tenants_pb2.ACTION_INFER: "infer",
    tenants_pb2.ACTION_READ: "read",
    tenants_pb2.ACTION_WRITE: "write",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key as a gateway knows it: its digest is where it is found, the key itself is nowhere.

    Attributes:
        expire_at: Unix time in seconds from which it is refused; None means never.
    """

    principal: Principal
    expire_at: float | None
    revoked: bool


class PrincipalTable:
    """Keys by SHA-256 and the status of tenants. One event loop; look-ups take no lock and no RPC.

    A snapshot replaces everything at once, when it is complete; until then, and while the feed is down, the former
    content goes on being served.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, Key] = {}
        self._digests: dict[str, bytes] = {}
        self._active: dict[str, bool] = {}
        self._tiers: dict[str, str] = {}
        self._features_off: dict[str, frozenset[str]] = {}
        self._dedicated: set[str] = set()
        self._isolation_listeners: list[Callable[[], None]] = []
        self._limits: dict[str, tuple[Limit, ...]] = {}
        self._aggregated: set[str] = set()
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether a snapshot has been received since the process started."""
        return self._ready

    def __len__(self) -> int:
        return len(self._keys)

    def replace(self, tenants: Iterable[TenantRecord], keys: Iterable[KeyRecord]) -> None:
        """Takes a complete snapshot in place of everything known so far."""
        self._keys, self._digests, self._active, self._tiers, self._features_off = {}, {}, {}, {}, {}
        self._aggregated.clear()
        self._dedicated = set()
        self.apply(tenants, keys)
        self._ready = True
        for changed in self._isolation_listeners:
            changed()

    def apply(self, tenants: Iterable[TenantRecord], keys: Iterable[KeyRecord]) -> None:
        """Takes what one revision changed."""
        for tenant in tenants:
            self._isolate(tenant)
            self._active[tenant.tenant_id] = tenant.status == tenants_pb2.TENANT_STATUS_ACTIVE
            self._tiers[tenant.tenant_id] = tenant.tier
            self._limits[tenant.tenant_id] = tuple(tenant.limits)
            (self._aggregated.add if tenant.aggregate_streams else self._aggregated.discard)(tenant.tenant_id)
            self._features_off[tenant.tenant_id] = frozenset(
                feature for feature, switch in tenant.features.items() if switch == OFF
            )
        for record in keys:
            digest = bytes(record.key_sha256)
            former = self._digests.get(record.key_id)
            if former is not None and former != digest:
                self._keys.pop(former, None)
            self._digests[record.key_id] = digest
            self._keys[digest] = _key(record)

    def add_isolation_listener(self, changed: Callable[[], None]) -> None:
        """`changed` is called when a tenant may be served by other runners than before."""
        self._isolation_listeners.append(changed)

    def is_dedicated(self, tenant_id: str) -> bool:
        """Whether only runners of its own may serve the tenant: nothing else is known before the first snapshot."""
        return not self._ready or tenant_id in self._dedicated

    def find(self, key_sha256: bytes) -> Key | None:
        """The key with this digest, revoked and expired ones included."""
        return self._keys.get(key_sha256)

    def is_active(self, tenant_id: str) -> bool:
        """Whether the tenant may call; a tenant that the feed never named may not."""
        return self._active.get(tenant_id, False)

    def tier(self, tenant_id: str) -> str:
        """The tenant's service tier; empty when unknown."""
        return self._tiers.get(tenant_id, "")

    def features_off(self, tenant_id: str) -> frozenset[str]:
        """Names of the features that are switched off for the tenant."""
        return self._features_off.get(tenant_id, _ALL_ON)

    def aggregates_streams(self, tenant_id: str) -> bool:
        """Whether the usage of the tenant's packed streams is written by model and second."""
        return tenant_id in self._aggregated

    def limits(self, tenant_id: str) -> tuple[Limit, ...]:
        """The limits that hold for a tenant: the same object until the feed tells of a change."""
        return self._limits.get(tenant_id, ())

    def _isolate(self, tenant: TenantRecord) -> None:
        dedicated = tenant.isolation == tenants_pb2.ISOLATION_DEDICATED
        if dedicated == (tenant.tenant_id in self._dedicated):
            return
        if dedicated:
            self._dedicated.add(tenant.tenant_id)
        else:
            self._dedicated.remove(tenant.tenant_id)
        if self._ready:
            for changed in self._isolation_listeners:
                changed()


def _key(record: KeyRecord) -> Key:
    roles = frozenset(_ROLE_NAMES[role] for role in record.roles if role in _ROLE_NAMES)
    expires = record.expire_time
    return Key(
        principal=Principal(
            tenant_id=record.tenant_id,
            roles=roles,
            key_id=record.key_id,
            subject=f"key:{record.key_id}",
            policies=tuple(_policy(policy) for policy in record.policies),
        ),
        expire_at=expires.seconds + expires.nanos / 1e9 if record.HasField("expire_time") else None,
        revoked=record.revoked,
    )


def _policy(policy: tenants_pb2.ResourcePolicy) -> ModelPolicy:
    return ModelPolicy(
        # An action of a newer quota service allows nothing here.
        actions=frozenset(_ACTION_NAMES[action] for action in policy.actions if action in _ACTION_NAMES),
        models=frozenset(policy.models),
        prefixes=tuple(name[:-1] for name in policy.models if name.endswith("*")) if policy.models else ("",),
    )
