"""Between the contract's messages and the domain's words."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.quota.v1 import tenants_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_quota.api_keys import ApiKey, Role
from headrace_quota.resource_policies import Action, ResourcePolicy
from headrace_quota.tenants import Isolation, Tenant, TenantStatus

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
ISOLATION_TO_WIRE: dict[Isolation, pb.Isolation.ValueType] = {
    Isolation.SHARED: pb.ISOLATION_SHARED,
    Isolation.DEDICATED: pb.ISOLATION_DEDICATED,
}
_ISOLATION_FROM_WIRE = {number: isolation for isolation, number in ISOLATION_TO_WIRE.items()} | {
    pb.ISOLATION_UNSPECIFIED: Isolation.SHARED
}
_ACTION_TO_WIRE: dict[Action, pb.Action.ValueType] = {
    Action.INFER: pb.ACTION_INFER,
    Action.READ: pb.ACTION_READ,
    Action.WRITE: pb.ACTION_WRITE,
}
_ACTION_FROM_WIRE = {number: action for action, number in _ACTION_TO_WIRE.items()}
_OVERLAP_MAX = timedelta(days=30)
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
        isolation=ISOLATION_TO_WIRE[tenant.isolation],
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
        policies=[policy_message(policy) for policy in key.policies],
        last_use_time=timestamp(key.last_use_time) if key.last_use_time is not None else None,
        rotated_from=key.rotated_from or "",
    )


def policy_message(policy: ResourcePolicy) -> pb.ResourcePolicy:
    """A policy as the contract shows it."""
    return pb.ResourcePolicy(actions=[_ACTION_TO_WIRE[action] for action in policy.actions], models=policy.models)


def policies_from(messages: Iterable[pb.ResourcePolicy]) -> tuple[ResourcePolicy, ...]:
    """The policies of a request, each action of one once.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) for ACTION_UNSPECIFIED and for numbers without an action.
    """
    policies: list[ResourcePolicy] = []
    for index, message in enumerate(messages):
        actions: set[Action] = set()
        for position, number in enumerate(message.actions):
            action = _ACTION_FROM_WIRE.get(number)
            if action is None:
                raise _refused(
                    f"policies[{index}].actions[{position}]", "must be ACTION_INFER, ACTION_READ or ACTION_WRITE"
                )
            actions.add(action)
        ordered = tuple(action for action in Action if action in actions)
        policies.append(ResourcePolicy(ordered, tuple(message.models)))
    return tuple(policies)


def isolation_from(number: int, *, field: str) -> Isolation:
    """The isolation of a request; unspecified means SHARED.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) for a number without one.
    """
    isolation = _ISOLATION_FROM_WIRE.get(pb.Isolation.ValueType(number))
    if isolation is None:
        raise _refused(field, "must be ISOLATION_SHARED or ISOLATION_DEDICATED")
    return isolation


def overlap_from(message: Duration) -> timedelta:
    """How long a rotated key still works, cut to microseconds.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) outside of 0 to 30 days, or with bad nanoseconds.
    """
    whole = 0 <= message.nanos < 1_000_000_000 and 0 <= message.seconds <= _OVERLAP_MAX.total_seconds()
    overlap = timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000) if whole else None
    if overlap is None or overlap > _OVERLAP_MAX:
        raise _refused("overlap", "must be 0 to 30 days")
    return overlap


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


def _refused(field: str, why: str) -> ValidationError:
    return ValidationError(f"{field} {why}", entry=catalogue.FIELD_INVALID, context={"field": field}, field=field)
