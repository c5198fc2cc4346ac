"""Gateways' books and the function in a real Valkey, in a time that only the test moves: no quota service between.

What PostgreSQL does for shares is repeated here in a few lines; the real one has a test of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.quota.internal.v1 import leases_pb2 as pb
from headrace.quota.v1.quotas_pb2 import Limit
from headrace_common.errors import HeadraceError
from headrace_common.testing import FakeClock
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.lease_book import LeaseBook
from headrace_gateway.quota.lease_exchange import GRANT_MAX_AGE_S, LeaseExchange, Needs
from headrace_gateway.quota.reservation import Reservation
from headrace_quota.leases.lease_desk import SHARE_AFTER_S
from headrace_quota.leases.valkey_leases import (
    FUNCTION,
    Report,
    StaleReport,
    Wish,
    function_arguments,
    function_source,
    read_answer,
)

TENANT = "acme"
ONE = Amounts()


@dataclass(slots=True)
class UnderWay:
    """A report that was sent and whose answer has not arrived."""

    request: pb.LeaseRequest
    needs: Needs
    sent_s: float


class WorldGateway:
    """One gateway: its own clock reads something else than everybody else's, but runs at the same pace."""

    def __init__(self, *, name: str, limits: Sequence[Limit], skew_s: float) -> None:
        self.name = name
        self.clock = FakeClock(monotonic_s=1_000.0 + skew_s)
        self.book = LeaseBook(limits_of=lambda _tenant: limits, clock=self.clock, wake=lambda: None)
        self.exchange = LeaseExchange(book=self.book, gateway_id=name, jitter=lambda: 0.5)
        self.calls: list[Reservation] = []
        self.waiting: list[asyncio.Future[Reservation]] = []
        self.under_way: UnderWay | None = None


@dataclass(slots=True)
class World:
    """Everything, and what was admitted when. The loop only makes futures; it never runs."""

    client: Any
    loop: asyncio.AbstractEventLoop
    limits: Sequence[Limit]
    expire_s: float = 40.0
    now_s: float = 10_000.0
    gateways: list[WorldGateway] = field(default_factory=list[WorldGateway])
    shares: dict[str, float] = field(default_factory=dict[str, float])
    admitted_s: list[float] = field(default_factory=list[float])
    most_at_once: int = 0
    store_up: bool = True
    made: int = 0

    def __post_init__(self) -> None:
        self.client.flushall()
        self.client.function_load(function_source(), replace=True)

    def join(self, skew_s: float) -> WorldGateway:
        """A new gateway."""
        self.made += 1
        gateway = WorldGateway(name=f"g{self.made}", limits=self.limits, skew_s=skew_s)
        self.gateways.append(gateway)
        return gateway

    def succeed(self, gateway: WorldGateway, skew_s: float) -> WorldGateway:
        """A gateway dies with all its calls, and another process takes its place."""
        place = self.gateways.index(gateway)
        heir = self.join(skew_s)
        self.gateways.remove(heir)
        self.gateways[place] = heir
        return heir

    def advance(self, seconds: float) -> None:
        """Time passes everywhere."""
        self.now_s += seconds
        for gateway in self.gateways:
            gateway.clock.advance(seconds)

    def call(self, gateway: WorldGateway) -> bool:
        """One call tries to get in."""
        try:
            reservation = gateway.book.reserve(TENANT, "m", ONE)
        except HeadraceError:
            return False
        if reservation is None:
            return False
        self._admit(gateway, reservation)
        return True

    def refused(self, gateway: WorldGateway) -> bool:
        """Whether a call would be refused without asking; it isn't counted where it would be let in."""
        try:
            reservation = gateway.book.reserve(TENANT, "m", ONE)
        except HeadraceError:
            return True
        if reservation is not None:
            reservation.release()
        return False

    def end(self, gateway: WorldGateway) -> None:
        """Its oldest call ends."""
        if gateway.calls:
            gateway.calls.pop(0).settle(ONE)

    def send(self, gateway: WorldGateway, waiting: int) -> None:
        """A report goes out, so many calls waiting; what was under way before is given up, as when a stream breaks."""
        sent_s = gateway.clock.monotonic()
        gateway.book.connected()
        for _ in range(waiting):
            answer: asyncio.Future[Reservation] = asyncio.Future(loop=self.loop)
            gateway.waiting.append(answer)
            gateway.book.enqueue(TENANT, "m", ONE, answer)
        request, needs = gateway.exchange.report(sent_s)
        gateway.under_way = UnderWay(request, needs, sent_s)

    def process(self, gateway: WorldGateway) -> pb.LeaseResponse | None:
        """The report that is under way reaches the store; None if that is lost or doesn't take it."""
        assert gateway.under_way is not None
        request = gateway.under_way.request
        response = pb.LeaseResponse(
            sequence=request.sequence,
            share_after_ms=int(SHARE_AFTER_S * 1_000),
            share_for_ms=int(self.expire_s * 1_000),
            limits=[pb.LimitGrant() for _ in request.limits],
        )
        for replaced in request.replaces:
            self.shares.pop(replaced, None)
        others = sum(share for name, share in self.shares.items() if name != gateway.name)
        members = len(self.shares.keys() | {gateway.name})
        response.share = int(1e9 * max(0.0, min(1 / members, 1 - others))) / 1e9
        self.shares[gateway.name] = counted = max(response.share, request.share)
        if not self.store_up:
            response.store_lost = True
            return response
        by_key = {(limit.model, limit.resource, limit.window): limit for limit in self.limits}
        wishes = [
            Wish(
                tenant_id=report.key.tenant_id,
                limit=by_key[report.key.model, report.key.resource, report.key.window],
                wanted=report.wanted,
                waiting=report.waiting,
                returned=report.returned,
                in_use=report.in_use,
                held=report.held,
            )
            for report in request.limits
        ]
        keys, document = function_arguments(
            Report(
                gateway_id=gateway.name,
                sequence=request.sequence,
                answered=request.answered,
                share=request.share,
                counted=counted,
                total=others + counted,
                leaving=request.leaving,
                replaces=list(request.replaces),
                wishes=wishes,
            ),
            expire_s=self.expire_s,
        )
        document["now_ms"] = self.now_s * 1_000
        try:
            grants, _ = read_answer(self.client.fcall(FUNCTION, len(keys), *keys, json.dumps(document)))
        except StaleReport:
            return None
        for grant, told in zip(grants, response.limits, strict=True):
            told.granted, told.ttl_ms = grant.granted, grant.ttl_ms
            told.retry_after_ms, told.used = grant.retry_after_ms, grant.used
        return response

    def receive(self, gateway: WorldGateway, response: pb.LeaseResponse | None) -> None:
        """The answer arrives, or is dropped because it is late."""
        sent = gateway.under_way
        gateway.under_way = None
        if sent is None or response is None:
            return
        now_s = gateway.clock.monotonic()
        if now_s - sent.sent_s < GRANT_MAX_AGE_S:
            gateway.exchange.take(sent.request, sent.needs, response, sent_s=sent.sent_s, now_s=now_s)
        for answer in gateway.waiting:
            gateway.book.withdraw(answer)
            if answer.done() and answer.exception() is None:
                self._admit(gateway, answer.result())
        gateway.waiting.clear()

    def exchange(self, gateway: WorldGateway, waiting: int = 0) -> None:
        """A whole exchange in no time."""
        self.send(gateway, waiting)
        self.receive(gateway, self.process(gateway))

    def worst_burst(self, rate_per_s: float) -> float:
        """The least burst that explains what was admitted: over all spans, calls less what the rate brought."""
        worst, lowest = 0.0, float("inf")
        for count, at_s in enumerate(sorted(self.admitted_s)):
            level = count - rate_per_s * (at_s - self.admitted_s[0])
            lowest = min(lowest, level)
            worst = max(worst, level + 1 - lowest)
        return worst

    def most_within(self, window_s: float) -> int:
        """The most calls in any window."""
        times = sorted(self.admitted_s)
        most, first = 0, 0
        for last, at_s in enumerate(times):
            while times[first] <= at_s - window_s + 1e-9:
                first += 1
            most = max(most, last - first + 1)
        return most

    def _admit(self, gateway: WorldGateway, reservation: Reservation) -> None:
        self.admitted_s.append(self.now_s)
        gateway.calls.append(reservation)
        self.most_at_once = max(self.most_at_once, sum(len(other.calls) for other in self.gateways))
