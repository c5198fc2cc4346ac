"""What a tenant is, and what may be said of one. Pure: no clock, no store, no wire."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from headrace_common import catalogue
from headrace_common.errors import TenantError, ValidationError
from headrace_common.features import FEATURE_PREFIX, FEATURES, OFF, ON

OPERATORS_TENANT = "default"
COMMUNITY_TENANT = "community"
DEFAULT_TIER = "standard"

TENANT_ID_CHARS_MAX = 63
NAME_CHARS_MAX = 256
METADATA_PAIRS_MAX = 64
METADATA_CHARS_MAX = 256

_TENANT_ID = re.compile(r"[a-z][a-z0-9-]{1,62}")
# PostgreSQL can't store NUL, and the rest of the control characters would forge lines in logs and terminals;
# a lone surrogate has no UTF-8 form.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class TenantStatus(StrEnum):
    """Whether a tenant may call."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


class Isolation(StrEnum):
    """Whose runners a tenant's models run on."""

    SHARED = "SHARED"
    DEDICATED = "DEDICATED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant as stored. Times are aware UTC datetimes."""

    id: str
    display_name: str
    status: TenantStatus
    tier: str
    metadata: Mapping[str, str]
    isolation: Isolation
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantDraft:
    """A tenant that somebody asks for: checked and completed, not stored yet."""

    id: str
    display_name: str = ""
    tier: str = DEFAULT_TIER
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    isolation: Isolation = Isolation.SHARED

    @classmethod
    def checked(
        cls,
        *,
        tenant_id: str,
        display_name: str,
        tier: str,
        metadata: Mapping[str, str],
        isolation: Isolation = Isolation.SHARED,
    ) -> TenantDraft:
        """Checks every field; an empty name becomes the id, an empty tier `standard`.

        Raises:
            ValidationError: INVALID_ARGUMENT, naming the field and its limit.
            TenantError: TENANT_ID_INVALID (INVALID_ARGUMENT).
        """
        check_tenant_id(tenant_id, field="id")
        check_text(display_name, field="display_name", chars_max=NAME_CHARS_MAX)
        check_text(tier, field="tier", chars_max=NAME_CHARS_MAX)
        check_metadata(metadata)
        return cls(
            id=tenant_id,
            display_name=display_name or tenant_id,
            tier=tier or DEFAULT_TIER,
            metadata=dict(metadata),
            isolation=isolation,
        )

    def describes(self, tenant: Tenant) -> bool:
        """Whether a stored tenant has exactly these fields: then a repeated creation is the same creation."""
        return (self.id, self.display_name, self.tier, dict(self.metadata), self.isolation) == (
            tenant.id,
            tenant.display_name,
            tenant.tier,
            dict(tenant.metadata),
            tenant.isolation,
        )


def check_tenant_id(tenant_id: str, *, field: str) -> None:
    """Raises FIELD_REQUIRED or TENANT_ID_INVALID (INVALID_ARGUMENT) unless the id follows the grammar."""
    if not tenant_id:
        raise ValidationError(
            f"{field} is required", entry=catalogue.FIELD_REQUIRED, context={"field": field}, field=field
        )
    if _TENANT_ID.fullmatch(tenant_id) is None:
        raise TenantError(
            f"{field} must be a lower-case letter followed by 1 to {TENANT_ID_CHARS_MAX - 1} lower-case letters, "
            "digits or '-'",
            entry=catalogue.TENANT_ID_INVALID,
            context={"tenant": tenant_id[:TENANT_ID_CHARS_MAX]},
            field=field,
        )


def check_text(text: str, *, field: str, chars_max: int) -> None:
    """Raises FIELD_TOO_LONG or FIELD_INVALID (INVALID_ARGUMENT) for text that is too long or not printable."""
    if len(text) > chars_max:
        raise ValidationError(
            f"{field} has {len(text)} characters, at most {chars_max} are allowed",
            entry=catalogue.FIELD_TOO_LONG,
            context={"field": field, "limit": chars_max},
            field=field,
        )
    if _UNPRINTABLE.search(text) is not None:
        raise ValidationError(
            f"{field} must not contain control characters",
            entry=catalogue.FIELD_INVALID,
            context={"field": field},
            field=field,
        )


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises FIELD_TOO_LONG, FIELD_REQUIRED, FIELD_INVALID or FEATURE_UNKNOWN (INVALID_ARGUMENT).

    Messages never repeat a pair.
    """
    if len(metadata) > METADATA_PAIRS_MAX:
        raise ValidationError(
            f"metadata has {len(metadata)} pairs, at most {METADATA_PAIRS_MAX} are allowed",
            entry=catalogue.FIELD_TOO_LONG,
            context={"field": "metadata", "limit": METADATA_PAIRS_MAX},
            field="metadata",
        )
    for key, value in metadata.items():
        if not key:
            raise ValidationError(
                "metadata keys must not be empty",
                entry=catalogue.FIELD_REQUIRED,
                context={"field": "metadata.key"},
                field="metadata.key",
            )
        check_text(key, field="metadata.key", chars_max=METADATA_CHARS_MAX)
        check_text(value, field="metadata.value", chars_max=METADATA_CHARS_MAX)
        if key.startswith(FEATURE_PREFIX):
            _check_switch(key.removeprefix(FEATURE_PREFIX), value)


def _check_switch(feature: str, value: str) -> None:
    if feature not in FEATURES:
        raise ValidationError(
            f"metadata.key names no feature; features are {', '.join(FEATURES)}",
            entry=catalogue.FEATURE_UNKNOWN,
            context={"field": "metadata.key", "features": ",".join(FEATURES)},
            field="metadata.key",
        )
    if value not in (ON, OFF):
        raise ValidationError(
            f"metadata.value of the feature '{feature}' must be '{ON}' or '{OFF}'",
            entry=catalogue.FIELD_INVALID,
            context={"field": "metadata.value"},
            field="metadata.value",
        )


def tenant_not_found(tenant_id: str) -> TenantError:
    """NOT_FOUND. Absent and foreign tenants get this same failure, byte for byte."""
    return TenantError(
        f"tenant '{tenant_id}' was not found",
        entry=catalogue.TENANT_NOT_FOUND,
        context={"tenant": tenant_id},
    )


def tenant_already_exists(tenant_id: str) -> TenantError:
    """ALREADY_EXISTS: the id is taken by a tenant with other fields."""
    return TenantError(
        f"tenant '{tenant_id}' exists with other fields",
        entry=catalogue.TENANT_ALREADY_EXISTS,
        context={"tenant": tenant_id},
    )


def tenant_protected(tenant_id: str) -> TenantError:
    """FAILED_PRECONDITION: without its operators' tenant nobody could resume anything."""
    return TenantError(
        f"tenant '{tenant_id}' is the operators' own and can't be suspended",
        entry=catalogue.TENANT_PROTECTED,
        context={"tenant": tenant_id},
    )


def tenant_suspended(tenant_id: str) -> TenantError:
    """PERMISSION_DENIED: the tenant may do nothing until an operator resumes it."""
    return TenantError(
        f"tenant '{tenant_id}' is suspended",
        entry=catalogue.TENANT_SUSPENDED,
        context={"tenant": tenant_id},
    )
