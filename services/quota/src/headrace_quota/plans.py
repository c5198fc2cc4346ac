"""What a plan is, and what may be said of one. Pure: no clock, no store, no wire."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from headrace_common import catalogue
from headrace_common.errors import QuotaError, ValidationError
from headrace_quota.limits import Limit, checked_limits
from headrace_quota.tenants import NAME_CHARS_MAX, check_text

PLAN_NAME_CHARS_MAX = 63
_PLAN_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDraft:
    """A plan as it is to be: checked and completed."""

    name: str
    display_name: str
    limits: tuple[Limit, ...] = ()
    aggregate_streams: bool = False

    @classmethod
    def checked(
        cls, *, name: str, display_name: str, limits: Sequence[Limit], aggregate_streams: bool, field: str
    ) -> PlanDraft:
        """Checks every field; an empty display name becomes the name. Failures name `<field>.name` and so on.

        Raises:
            ValidationError: INVALID_ARGUMENT, naming the field and its limit.
        """
        check_plan_name(name, field=f"{field}.name")
        check_text(display_name, field=f"{field}.display_name", chars_max=NAME_CHARS_MAX)
        return cls(
            name=name,
            display_name=display_name or name,
            limits=checked_limits(limits, field=f"{field}.limits"),
            aggregate_streams=aggregate_streams,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan as stored; limits ordered by key. Times are aware UTC datetimes."""

    name: str
    display_name: str
    limits: tuple[Limit, ...]
    aggregate_streams: bool
    create_time: datetime
    update_time: datetime


def check_plan_name(name: str, *, field: str) -> None:
    """Raises FIELD_REQUIRED or FIELD_INVALID (INVALID_ARGUMENT) unless the name follows the grammar."""
    if not name:
        raise ValidationError(
            f"{field} is required", entry=catalogue.FIELD_REQUIRED, context={"field": field}, field=field
        )
    if _PLAN_NAME.fullmatch(name) is None:
        raise ValidationError(
            f"{field} must be a lower-case letter followed by up to {PLAN_NAME_CHARS_MAX - 1} lower-case letters, "
            "digits or '-'",
            entry=catalogue.FIELD_INVALID,
            context={"field": field},
            field=field,
        )


def plan_not_found(name: str) -> QuotaError:
    """NOT_FOUND. Absent plans and those of others get this same failure, byte for byte."""
    return QuotaError(f"plan '{name}' was not found", entry=catalogue.PLAN_NOT_FOUND, context={"plan": name})


def plan_in_use(name: str) -> QuotaError:
    """FAILED_PRECONDITION: taking the plan away would leave its tenants without limits."""
    return QuotaError(
        f"plan '{name}' has tenants; move them to another plan first",
        entry=catalogue.PLAN_IN_USE,
        context={"plan": name},
    )
