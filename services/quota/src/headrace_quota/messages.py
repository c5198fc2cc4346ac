"""Between the contract's messages and the domain's words."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.quota.v1 import tenants_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_quota.api_keys import ApiKey, Role
from headrace_quota.tenants import Tenant, TenantStatus

STATUS_TO_WIRE: dict[TenantStatus, pb.TenantStatus.ValueType] = {
    TenantStatus.ACTIVE: pb.TENANT_STATUS_ACTIVE,
    TenantStatus.SUSPENDED: pb.TENANT_STATUS_SUSPENDED,
}
ROLE_TO_WIRE: dict[Role, pb.Role.ValueType] = {
    Role.VIEWER: pb.ROLE_VIEWER,
    Role.USER: pb.ROLE_USER,
    Role.MODEL_ADMIN: pb.ROLE_MODEL_ADMIN,
    Role.ADMIN: pb.ROLE_ADMIN,
}
_ROLE_FROM_WIRE = {number: role for role, number in ROLE_TO_WIRE.items()}


def tenant_message(tenant: Tenant) -> pb.Tenant:
    """A tenant as the contract shows it."""
    return pb.Tenant(
        id=tenant.id,
        display_name=tenant.display_name,
        status=STATUS_TO_WIRE[tenant.status],
        tier=tenant.tier,
        metadata=tenant.metadata,
        create_time=timestamp(tenant.create_time),
        update_time=timestamp(tenant.update_time),
    )


def api_key_message(key: ApiKey) -> pb.ApiKey:
    """A key as the contract shows it: without its digest."""
    return pb.ApiKey(
        id=key.id,
        tenant_id=key.tenant_id,
        display_name=key.display_name,
        prefix=key.prefix,
        roles=[ROLE_TO_WIRE[role] for role in key.roles],
        create_time=timestamp(key.create_time),
        expire_time=timestamp(key.expire_time) if key.expire_time is not None else None,
        revoke_time=timestamp(key.revoke_time) if key.revoke_time is not None else None,
    )


def roles_from(numbers: Iterable[int]) -> tuple[Role, ...]:
    """The roles of a request, in its order.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) for ROLE_UNSPECIFIED and for numbers without a role.
    """
    roles: list[Role] = []
    for index, number in enumerate(numbers):
        role = _ROLE_FROM_WIRE.get(pb.Role.ValueType(number))
        if role is None:
            field = f"roles[{index}]"
            raise ValidationError(
                f"{field} must be ROLE_VIEWER, ROLE_USER, ROLE_MODEL_ADMIN or ROLE_ADMIN",
                entry=catalogue.FIELD_INVALID,
                context={"field": field},
                field=field,
            )
        roles.append(role)
    return tuple(roles)


def instant_from(message: Timestamp, *, field: str) -> datetime:
    """The instant of a request's timestamp, cut to microseconds.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) outside of the years 1 to 9999, or with bad nanoseconds.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValidationError(
            f"{field} must lie in the years 1 to 9999 and have 0 to 999999999 nanoseconds",
            entry=catalogue.FIELD_INVALID,
            context={"field": field},
            field=field,
        ) from None


def timestamp(instant: datetime) -> Timestamp:
    """An aware datetime as the contract's timestamp."""
    message = Timestamp()
    message.FromDatetime(instant)
    return message
