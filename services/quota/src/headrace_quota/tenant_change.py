"""What an operator changes of a tenant: which fields, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_quota.tenants import (
    DEFAULT_TIER,
    METADATA_PAIRS_MAX,
    NAME_CHARS_MAX,
    Isolation,
    Tenant,
    check_metadata,
    check_tenant_id,
    check_text,
)

PATHS = ("display_name", "tier", "metadata", "metadata.<key>", "isolation")
_WHOLE = frozenset(("display_name", "tier", "metadata", "isolation"))
_PAIR = "metadata."
# Every pair that there may be, gone and set anew, and the other fields.
_PATHS_MAX = 2 * METADATA_PAIRS_MAX + len(PATHS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantChange:
    """New values of some fields: those that are None stay.

    Attributes:
        metadata: All pairs that there are to be.
        pairs: Single pairs by key; None takes the pair away.
    """

    tenant_id: str
    display_name: str | None = None
    tier: str | None = None
    metadata: Mapping[str, str] | None = None
    pairs: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    isolation: Isolation | None = None

    @classmethod
    def checked(
        cls,
        *,
        paths: Sequence[str],
        tenant_id: str,
        display_name: str,
        tier: str,
        metadata: Mapping[str, str],
        isolation: Isolation,
    ) -> TenantChange:
        """The change of the fields that the mask's paths name; an empty name becomes the id, an empty tier `standard`.

        Raises:
            ValidationError: INVALID_ARGUMENT, naming the field and its limit: no path, one that names nothing that
                can be changed, `metadata` beside a pair of it, or a value that can't be.
            TenantError: TENANT_ID_INVALID (INVALID_ARGUMENT).
        """
        check_tenant_id(tenant_id, field="tenant.id")
        wanted = _checked_paths(paths)
        keys = [path.removeprefix(_PAIR) for path in wanted if path.startswith(_PAIR)]
        if keys and "metadata" in wanted:
            raise _bad_mask("names 'metadata', which is replaced as a whole, beside a pair of it")
        pairs = {key: metadata.get(key) for key in keys}
        if "display_name" in wanted:
            check_text(display_name, field="tenant.display_name", chars_max=NAME_CHARS_MAX)
        if "tier" in wanted:
            check_text(tier, field="tenant.tier", chars_max=NAME_CHARS_MAX)
        check_metadata(
            metadata if "metadata" in wanted else {key: value for key, value in pairs.items() if value is not None}
        )
        return cls(
            tenant_id=tenant_id,
            display_name=(display_name or tenant_id) if "display_name" in wanted else None,
            tier=(tier or DEFAULT_TIER) if "tier" in wanted else None,
            metadata=dict(metadata) if "metadata" in wanted else None,
            pairs=pairs,
            isolation=isolation if "isolation" in wanted else None,
        )

    def of(self, tenant: Tenant) -> Tenant:
        """The tenant as it is to be, its times as they were.

        Raises:
            ValidationError: FIELD_TOO_LONG (INVALID_ARGUMENT): with the new pairs there are too many.
        """
        metadata = dict(tenant.metadata if self.metadata is None else self.metadata)
        for key, value in self.pairs.items():
            if value is None:
                metadata.pop(key, None)
            else:
                metadata[key] = value
        if len(metadata) > METADATA_PAIRS_MAX:
            check_metadata(metadata)
        return replace(
            tenant,
            display_name=tenant.display_name if self.display_name is None else self.display_name,
            tier=tenant.tier if self.tier is None else self.tier,
            metadata=metadata,
            isolation=tenant.isolation if self.isolation is None else self.isolation,
        )


def _checked_paths(paths: Sequence[str]) -> frozenset[str]:
    if not paths:
        raise ValidationError(
            f"update_mask is required; it names {', '.join(PATHS)}",
            entry=catalogue.FIELD_REQUIRED,
            context={"field": "update_mask"},
            field="update_mask",
        )
    if len(paths) > _PATHS_MAX:
        raise ValidationError(
            f"update_mask has {len(paths)} paths, at most {_PATHS_MAX} are allowed",
            entry=catalogue.FIELD_TOO_LONG,
            context={"field": "update_mask", "limit": _PATHS_MAX},
            field="update_mask",
        )
    for path in paths:
        if path not in _WHOLE and not (path.startswith(_PAIR) and path != _PAIR):
            raise _bad_mask(f"may name {', '.join(PATHS)}")
    return frozenset(paths)


def _bad_mask(why: str) -> ValidationError:
    return ValidationError(
        f"update_mask {why}", entry=catalogue.FIELD_INVALID, context={"field": "update_mask"}, field="update_mask"
    )
