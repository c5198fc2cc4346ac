"""What must be in the store before the first call: the operators' tenant, and a way in for them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import structlog

from headrace_common import catalogue
from headrace_common.errors import ConfigError
from headrace_common.secrets import read_secret
from headrace_quota.api_keys import KeyMaterial, Role, draft_key
from headrace_quota.store import TenantStore
from headrace_quota.tenants import COMMUNITY_TENANT, OPERATORS_TENANT, TenantDraft

_VARIABLE = "HEADRACE_QUOTA_BOOTSTRAP_ADMIN_KEY_FILE"


def read_admin_key(reference: Path | str | None) -> KeyMaterial | None:
    """The admin key that a setting points to, or None without one.

    Raises:
        ConfigError: the secret can't be read, or is no key; the message never holds its text.
    """
    if reference is None:
        return None
    try:
        return KeyMaterial.given(read_secret(reference).strip())
    except ValueError as error:
        raise ConfigError(
            f"{_VARIABLE} points to what is not a key: {error}",
            entry=catalogue.SETTING_INVALID,
            context={"variable": _VARIABLE},
        ) from None


async def prepare_tenants(store: TenantStore, *, embedded: bool, admin_key: KeyMaterial | None, now: datetime) -> None:
    """Makes what is missing and changes nothing that is there; safe to repeat and to run in several processes at once.

    Raises:
        StorageUnavailable: UNAVAILABLE: the store can't be reached; repeat it.
        ConfigError: SETTING_INVALID: the admin key belongs to another tenant.
    """
    log = structlog.stdlib.get_logger("bootstrap")
    wanted = (OPERATORS_TENANT, COMMUNITY_TENANT) if embedded else (OPERATORS_TENANT,)
    for tenant_id in wanted:
        draft = TenantDraft.checked(tenant_id=tenant_id, display_name="", tier="", metadata={})
        _, created = await store.insert_tenant(draft)
        if created:
            log.info("tenant created", tenant=tenant_id)
    if admin_key is None:
        return
    key = await store.adopt_api_key(
        draft_key(
            material=admin_key,
            tenant_id=OPERATORS_TENANT,
            display_name="bootstrap admin",
            roles=(Role.ADMIN,),
            expire_time=None,
            now=now,
        )
    )
    if key is None:
        raise ConfigError(
            f"{_VARIABLE} holds a key of another tenant than '{OPERATORS_TENANT}'",
            entry=catalogue.SETTING_INVALID,
            context={"variable": _VARIABLE},
        )
    if key.revoke_time is not None:
        # Who revoked it meant it: a restart must not undo that.
        log.warning("bootstrap admin key is revoked and stays so", key_id=key.id, prefix=key.prefix)
    elif Role.ADMIN not in key.roles:
        log.warning("bootstrap admin key is stored without the role admin", key_id=key.id, prefix=key.prefix)
