"""Who calls: decided from memory, in microseconds, before anything of the call's body is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from headrace_common.catalogue import (
    CREDENTIAL_UNKNOWN,
    CREDENTIALS_NOT_READY,
    KEY_EXPIRED,
    KEY_REVOKED,
    TENANT_MISMATCH,
    TENANT_SUSPENDED,
)
from headrace_common.clock import Clock
from headrace_common.errors import AuthError, AuthUnavailable, TenantError
from headrace_common.principal import Principal
from headrace_gateway.authority import require_loopback
from headrace_gateway.credentials import TENANT_ID, presented
from headrace_gateway.features import Features
from headrace_gateway.oidc.tokens import Tokens
from headrace_gateway.principal_table import Key, PrincipalTable

COMMUNITY_KEY = "community"
COMMUNITY_TENANT = "community"
_COMMUNITY_ROLES = frozenset({"viewer", "user", "model_admin"})

Metadata = Sequence[tuple[str, str | bytes]]


class Identity:
    """Turns a call's metadata into a principal. Pure over the table and the clock.

    Args:
        table: Keys and tenants from the quota service's feed.
        clock: Decides whether a key has expired.
        community: Whether the well-known key of the embedded mesh is accepted. Whoever passes True has made sure
            that every listener is loopback.
        tokens: Checks signed tokens; None where only keys are accepted.
    """

    def __init__(self, *, table: PrincipalTable, clock: Clock, community: bool, tokens: Tokens | None = None) -> None:
        self._table = table
        self._clock = clock
        self._tokens = tokens
        self._features = Features(table=table)
        self._community = _community_key() if community else None
        self._community_sha256 = hashlib.sha256(COMMUNITY_KEY.encode()).digest()

    def authenticate(self, metadata: Metadata) -> Principal:
        """The caller.

        Raises:
            AuthError: CREDENTIAL_MISSING, CREDENTIAL_MALFORMED, CREDENTIAL_UNKNOWN, KEY_REVOKED, KEY_EXPIRED,
                TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_AUDIENCE_MISMATCH (UNAUTHENTICATED), AUTHORITY_FORBIDDEN,
                TENANT_MISMATCH (PERMISSION_DENIED).
            AuthUnavailable: CREDENTIALS_NOT_READY (UNAVAILABLE) before the first snapshot, or while the issuer's keys
                are read.
            TenantError: TENANT_SUSPENDED, FEATURE_DISABLED (PERMISSION_DENIED).
        """
        said = presented(metadata, tokens=self._tokens is not None)
        if not self._table.ready:
            raise AuthUnavailable(
                "this gateway has not received the key table yet", entry=CREDENTIALS_NOT_READY, retry_after_s=0.5
            )
        if said.token and self._tokens is not None:
            principal = self._tokens.principal(said.credential)
        else:
            principal = self._key_holder(said.credential, metadata)
        if not self._table.is_active(principal.tenant_id):
            raise TenantError(
                f"tenant '{principal.tenant_id}' is suspended",
                entry=TENANT_SUSPENDED,
                context={"tenant": principal.tenant_id},
            )
        for tenant_id in said.tenant_ids:
            if tenant_id != principal.tenant_id:
                raise AuthError(f"{TENANT_ID} names another tenant than the credential's", entry=TENANT_MISMATCH)
        for feature in said.features:
            self._features.require(feature, principal.tenant_id)
        return principal

    def _key_holder(self, api_key: str, metadata: Metadata) -> Principal:
        digest = hashlib.sha256(api_key.encode("ascii")).digest()
        key = self._table.find(digest)
        if key is None:
            if self._community is None or digest != self._community_sha256:
                raise AuthError("the API key is not known", entry=CREDENTIAL_UNKNOWN)
            require_loopback(metadata)
            key = self._community
        principal = key.principal
        if key.revoked:
            raise AuthError("the API key was revoked", entry=KEY_REVOKED, context={"key_id": principal.key_id})
        if key.expire_at is not None and key.expire_at <= self._clock.now().timestamp():
            raise AuthError("the API key has expired", entry=KEY_EXPIRED, context={"key_id": principal.key_id})
        return principal


def _community_key() -> Key:
    principal = Principal(
        tenant_id=COMMUNITY_TENANT, roles=_COMMUNITY_ROLES, key_id=COMMUNITY_KEY, subject=f"key:{COMMUNITY_KEY}"
    )
    return Key(principal=principal, expire_at=None, revoked=False)
