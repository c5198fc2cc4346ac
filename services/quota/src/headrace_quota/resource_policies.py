"""What a key may do with which models, beyond what its roles say. Pure: no store, no wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_quota.tenants import NAME_CHARS_MAX, check_text

POLICIES_MAX = 20
MODELS_MAX = 100


class Action(StrEnum):
    """A kind of thing that a policy allows."""

    INFER = "infer"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class ResourcePolicy:
    """Actions on models: each once, in the order of `Action`; names as given, none of them meaning all models."""

    actions: tuple[Action, ...]
    models: tuple[str, ...]


def check_policies(policies: Sequence[ResourcePolicy], *, administers: bool) -> tuple[ResourcePolicy, ...]:
    """The policies of a new key.

    Args:
        policies: What is asked for.
        administers: Whether the key is to have the role admin.

    Raises:
        ValidationError: FIELD_TOO_LONG, FIELD_REQUIRED or FIELD_INVALID (INVALID_ARGUMENT): too many policies or
            models, no action, a name that no model can have, or policies for an admin, who could make itself a key
            without them.
    """
    if len(policies) > POLICIES_MAX:
        raise _too_long("policies", len(policies), POLICIES_MAX)
    if policies and administers:
        raise _invalid("policies", "can't bound a key with the role admin, which can make keys without them")
    for index, policy in enumerate(policies):
        place = f"policies[{index}]"
        if not policy.actions:
            raise ValidationError(
                f"{place}.actions is required",
                entry=catalogue.FIELD_REQUIRED,
                context={"field": f"{place}.actions"},
                field=f"{place}.actions",
            )
        if len(policy.models) > MODELS_MAX:
            raise _too_long(f"{place}.models", len(policy.models), MODELS_MAX)
        for position, model in enumerate(policy.models):
            _check_pattern(model, f"{place}.models[{position}]")
    return tuple(policies)


def _check_pattern(model: str, field: str) -> None:
    check_text(model, field=field, chars_max=NAME_CHARS_MAX)
    if not model:
        raise _invalid(field, "must name a model")
    if "*" in model[:-1]:
        raise _invalid(field, "may have one '*', at its end")
    if any(sign in model for sign in ":@+/ "):
        raise _invalid(field, "must be the name of a model, without a version")


def _too_long(field: str, count: int, limit: int) -> ValidationError:
    return ValidationError(
        f"{field} has {count} entries, at most {limit} are allowed",
        entry=catalogue.FIELD_TOO_LONG,
        context={"field": field, "limit": limit},
        field=field,
    )


def _invalid(field: str, why: str) -> ValidationError:
    return ValidationError(f"{field} {why}", entry=catalogue.FIELD_INVALID, context={"field": field}, field=field)
