"""Answers reports of gateways: rates and concurrency from Valkey, calendar quotas from PostgreSQL, side by side."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta

from headrace.quota.internal.v1 import leases_pb2 as pb
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, ValidationError
from headrace_quota.leases.calendar_leases import CALENDAR_WINDOWS, CalendarLeases, Slice
from headrace_quota.leases.gateway_membership import GatewayMemberships
from headrace_quota.leases.lease_metrics import LeaseMetrics
from headrace_quota.leases.limit_table import LimitTable
from headrace_quota.leases.valkey_leases import Grant, Report, StaleReport, StoreLost, ValkeyLeases, Wish

LIMITS_MAX = 2_000
"""Limits in one report."""
SHARE_AFTER_S = 6.0
"""Longer than what the function in Valkey calls KNOWN_FOR by more than the 2 s after which a grant is dropped."""
_DATABASE_S = 1.0
_RETRY_S = 1.0
_WINDOW_SLACK = timedelta(minutes=10)


class LeaseDesk:
    """Reports come in lockstep by gateway, those of different gateways at once."""

    def __init__(
        self,
        *,
        limits: LimitTable,
        valkey: ValkeyLeases,
        calendar: CalendarLeases,
        memberships: GatewayMemberships,
        metrics: LeaseMetrics,
        clock: Clock,
    ) -> None:
        self._limits = limits
        self._valkey = valkey
        self._calendar = calendar
        self._memberships = memberships
        self._metrics = metrics
        self._clock = clock

    async def answer(self, request: pb.LeaseRequest) -> pb.LeaseResponse:
        """One grant for each limit of the report.

        Raises:
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT): the report is out of order or makes no sense.
        """
        _check(request)
        left = [*request.replaces, *([request.gateway_id] if request.leaving else [])]
        if left:
            await self._memberships.leave(left)
        if request.leaving:
            share, share_for_s, counted = 0.0, 0.0, 0.0
        else:
            membership, share_for_s = await self._memberships.met(request.gateway_id, request.share)
            share, counted = membership.share, membership.counted
        response = pb.LeaseResponse(
            sequence=request.sequence,
            share=share,
            share_after_ms=int(SHARE_AFTER_S * 1_000),
            share_for_ms=int(share_for_s * 1_000),
        )
        grants = [response.limits.add() for _ in request.limits]
        response.store_lost, _ = await asyncio.gather(
            self._grant_rates(request, counted, grants), self._grant_slices(request, grants)
        )
        self._count(request, grants)
        return response

    async def _grant_rates(self, request: pb.LeaseRequest, counted: float, grants: list[pb.LimitGrant]) -> bool:
        """Whether the store was out of reach."""
        wishes: list[Wish] = []
        places: list[int] = []
        for place, report in enumerate(request.limits):
            key = report.key
            if key.window in CALENDAR_WINDOWS:
                continue
            limit = self._limits.find(key.tenant_id, (key.model, key.resource, key.window))
            if limit is None:
                grants[place].unknown = True
                continue
            places.append(place)
            wishes.append(
                Wish(
                    tenant_id=key.tenant_id,
                    limit=limit,
                    wanted=report.wanted,
                    waiting=min(report.waiting, report.wanted),
                    returned=report.returned,
                    in_use=report.in_use,
                    held=report.held,
                )
            )
        try:
            answers, carve = await self._valkey.take(
                Report(
                    gateway_id=request.gateway_id,
                    sequence=request.sequence,
                    answered=request.answered,
                    share=request.share,
                    counted=counted,
                    total=self._memberships.total,
                    leaving=request.leaving,
                    replaces=request.replaces,
                    wishes=wishes,
                )
            )
        except StoreLost:
            return True
        except StaleReport:
            raise ValidationError("a newer report of this gateway was seen", field="sequence") from None
        self._metrics.carved.set(carve)
        for place, answer in zip(places, answers, strict=True):
            _set(grants[place], answer)
        return False

    async def _grant_slices(self, request: pb.LeaseRequest, grants: list[pb.LimitGrant]) -> None:
        wishes = self._slices(request, grants)
        if not wishes:
            return
        try:
            if not self._memberships.reachable:
                raise TimeoutError
            async with asyncio.timeout(_DATABASE_S):
                answers = await self._calendar.take(request.gateway_id, [wish for _, wish in wishes])
        except (HeadraceError, TimeoutError):
            if self._memberships.reachable:
                self._memberships.failed()
            for place, _ in wishes:
                grants[place].used = -1
                grants[place].retry_after_ms = int(_RETRY_S * 1_000)
            return
        for (place, wish), answer in zip(wishes, answers, strict=True):
            if answer is None:
                grants[place].granted = 0
                grants[place].unknown = True
                continue
            grants[place].granted += answer.granted
            if answer.granted < wish.waiting:
                grants[place].used = answer.taken
                grants[place].retry_after_ms = int(_RETRY_S * 1_000)

    def _slices(self, request: pb.LeaseRequest, grants: list[pb.LimitGrant]) -> list[tuple[int, Slice]]:
        """What the database is to be asked, with the place in the report; the other slices stay as they are."""
        slices: list[tuple[int, Slice]] = []
        now = self._clock.now()
        for place, report in enumerate(request.limits):
            key = report.key
            if key.window not in CALENDAR_WINDOWS:
                continue
            grants[place].granted = report.held
            start = key.window_start.ToDatetime(UTC)
            if not now - timedelta(days=32) < start < now + _WINDOW_SLACK:
                grants[place].unknown = True
            elif report.wanted or report.returned:
                wish = Slice(
                    tenant_id=key.tenant_id,
                    model=key.model,
                    resource=key.resource,
                    window=key.window,
                    window_start=start,
                    wanted=report.wanted,
                    waiting=min(report.waiting, report.wanted),
                    returned=report.returned,
                )
                slices.append((place, wish))
        return slices

    def _count(self, request: pb.LeaseRequest, grants: list[pb.LimitGrant]) -> None:
        for report, grant in zip(request.limits, grants, strict=True):
            added = grant.granted - report.held
            self._metrics.granted(
                report.key.resource, report.key.window, added, short=report.waiting > 0 and grant.retry_after_ms > 0
            )


def _set(grant: pb.LimitGrant, answer: Grant) -> None:
    grant.granted = answer.granted
    grant.ttl_ms = answer.ttl_ms
    grant.retry_after_ms = answer.retry_after_ms
    grant.used = answer.used


def _check(request: pb.LeaseRequest) -> None:
    if not 1 <= len(request.gateway_id) <= 200 or any(not 1 <= len(old) <= 200 for old in request.replaces):
        raise ValidationError("a gateway's identifier has 1 to 200 characters", field="gateway_id")
    if request.sequence < 1 or request.answered >= request.sequence:
        raise ValidationError("reports are numbered from 1, after those answered", field="sequence")
    if not 0 <= request.share <= 1:
        raise ValidationError("a share is a part of 1", field="share")
    if len(request.limits) > LIMITS_MAX:
        raise ValidationError(f"a report has at most {LIMITS_MAX} limits", field="limits")
    for place, report in enumerate(request.limits):
        if min(report.wanted, report.waiting, report.returned, report.in_use, report.held) < 0:
            raise ValidationError("permits are counted from 0", field=f"limits[{place}]")
