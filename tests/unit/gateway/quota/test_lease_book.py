"""What the book decides: all limits of a call or none, each settled once, refusals that say what was reached."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.quota.internal.v1 import leases_pb2
from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.errors import QuotaExceeded, QuotaUnavailable
from headrace_common.rpc_status import to_status
from headrace_common.testing import FakeClock
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.lease_book import LeaseBook
from headrace_gateway.quota.lease_exchange import LeaseExchange
from headrace_gateway.quota.reservation import NO_LIMITS, Reservation

ONE = Amounts()
CALLS = pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_RATE, amount=100)
AT_ONCE = pb.Limit(resource=pb.RESOURCE_CONCURRENCY, window=pb.WINDOW_MOMENT, amount=20)
TOKENS = pb.Limit(resource=pb.RESOURCE_TOKENS, window=pb.WINDOW_RATE, amount=1_000)
HOURLY = pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_HOUR, amount=10_000)
DEVICE = pb.Limit(resource=pb.RESOURCE_DEVICE_MS, window=pb.WINDOW_DAY, amount=60_000)


class Desk:
    """A gateway's book, and answers to its reports as a test wants them."""

    def __init__(self, *limits: pb.Limit, at: datetime = datetime(2026, 3, 4, 10, 15, tzinfo=UTC)) -> None:
        self.limits: Sequence[pb.Limit] = limits
        self.clock = FakeClock(start=at)
        self.wakes = 0
        self.book = LeaseBook(limits_of=lambda _tenant: self.limits, clock=self.clock, wake=self._woken)
        self.exchange = LeaseExchange(book=self.book, gateway_id="g", jitter=lambda: 0.5)
        self.book.connected()

    def _woken(self) -> None:
        self.wakes += 1

    def report(
        self, *granted: int, leaving: bool = False, place_ttl_ms: int = 2_000, **answer: Any
    ) -> leases_pb2.LeaseRequest:
        """One exchange: so much in all is granted of each limit of the report, in order."""
        now_s = self.clock.monotonic()
        request, needs = self.exchange.report(now_s, leaving=leaving)
        grants = [
            leases_pb2.LimitGrant(granted=permits, ttl_ms=place_ttl_ms, retry_after_ms=500, used=77)
            for permits in granted
        ]
        assert len(grants) == len(request.limits)
        fields = {"share": 0.5, "share_after_ms": 6_000, "share_for_ms": 300_000} | answer
        response = leases_pb2.LeaseResponse(sequence=request.sequence, limits=grants, **fields)
        self.exchange.take(request, needs, response, sent_s=now_s, now_s=now_s)
        return request

    def tick(self, **answer: Any) -> None:
        """A second later, an exchange in which everybody keeps what they have."""
        self.clock.advance(1)
        now_s = self.clock.monotonic()
        request, needs = self.exchange.report(now_s)
        grants = [leases_pb2.LimitGrant(granted=limit.held, ttl_ms=2_000) for limit in request.limits]
        fields = {"share": 0.5, "share_after_ms": 6_000, "share_for_ms": 300_000} | answer
        response = leases_pb2.LeaseResponse(sequence=request.sequence, limits=grants, **fields)
        self.exchange.take(request, needs, response, sent_s=now_s, now_s=now_s)

    def reserve(self, estimate: Amounts = ONE, model: str = "m") -> Reservation | None:
        """One call of the tenant."""
        return self.book.reserve("acme", model, estimate)

    def reserved(self, estimate: Amounts = ONE) -> Reservation:
        """One call of the tenant, which gets in."""
        reservation = self.reserve(estimate)
        assert reservation is not None
        return reservation

    def calls_left(self) -> int:
        """How many more calls get in now."""
        count = 0
        try:
            while self.reserve() is not None:
                count += 1
        except (QuotaExceeded, QuotaUnavailable):
            pass
        return count


def test_a_tenant_without_limits_is_not_counted() -> None:
    desk = Desk()
    assert desk.reserve() is NO_LIMITS
    assert not desk.exchange.report(0.0)[0].limits


def test_a_limit_of_another_model_is_not_counted() -> None:
    desk = Desk(pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_RATE, amount=1, model="other"))
    assert desk.reserve() is NO_LIMITS
    assert desk.reserve(model="other") is None


def test_nothing_is_taken_of_one_limit_where_another_one_refuses() -> None:
    desk = Desk(CALLS, AT_ONCE)
    assert desk.reserve() is None
    desk.report(10, 2)
    assert desk.calls_left() == 2
    request = desk.report(10, 2)
    assert request.limits[0].held + request.limits[0].returned == 8


def test_the_first_of_settle_and_release_counts() -> None:
    desk = Desk(AT_ONCE)
    assert desk.reserve() is None
    desk.report(1)
    reservation = desk.reserved()
    assert desk.reserve() is None
    reservation.settle(ONE)
    reservation.settle(ONE)
    reservation.release()
    assert desk.calls_left() == 1


def test_tokens_above_the_estimate_are_taken_off_later_permits() -> None:
    desk = Desk(TOKENS)
    assert desk.reserve(Amounts(tokens=100)) is None
    desk.report(200)
    desk.reserved(Amounts(tokens=100)).settle(Amounts(tokens=350))
    assert desk.reserve(Amounts(tokens=1)) is None
    request = desk.report(400)
    assert request.limits[0].wanted >= 150
    assert request.limits[0].held == 0
    assert desk.reserve(Amounts(tokens=251)) is None
    desk.reserved(Amounts(tokens=250))


def test_a_call_without_tokens_passes_a_token_limit_that_is_overdrawn() -> None:
    desk = Desk(TOKENS)
    assert desk.reserve(Amounts(tokens=100)) is None
    desk.report(100)
    desk.reserved(Amounts(tokens=100)).settle(Amounts(tokens=900))
    assert desk.reserve(Amounts(tokens=0)) is not None


def test_tokens_that_were_not_needed_come_back_to_quota_where_their_grant_is_over() -> None:
    desk = Desk(TOKENS)
    assert desk.reserve(Amounts(tokens=100)) is None
    desk.report(100)
    reservation = desk.reserved(Amounts(tokens=100))
    desk.clock.advance(1)
    assert desk.report(0).limits[0].returned == 0
    reservation.settle(Amounts(tokens=30))
    assert desk.report(0).limits[0].returned == 70


def test_a_call_that_was_never_forwarded_frees_its_permit_only_before_the_next_report() -> None:
    desk = Desk(CALLS)
    assert desk.reserve() is None
    desk.report(2)
    first, second = desk.reserved(), desk.reserved()
    first.release()
    assert desk.calls_left() == 1
    desk.report(0)
    second.release()
    assert desk.calls_left() == 0


def test_device_time_is_owed_after_the_call_and_stops_the_next_one() -> None:
    desk = Desk(DEVICE)
    assert desk.reserve() is None
    desk.report(50)
    desk.reserved().settle(Amounts(device_ms=5_000))
    assert desk.reserve() is None
    request = desk.report(4_951)
    assert request.limits[0].wanted >= 4_950
    assert desk.calls_left() == 1
    assert desk.report(1).limits[0].returned == 4_950, "what covered the debt is charged by the ledger"


def test_permits_of_a_rate_end_two_seconds_after_their_report() -> None:
    desk = Desk(CALLS)
    assert desk.reserve() is None
    desk.report(5)
    desk.clock.advance(1.99)
    assert desk.reserve() is not None
    desk.clock.advance(0.02)
    assert desk.reserve() is None


def test_an_answer_that_nothing_is_left_is_remembered_and_says_what_was_reached() -> None:
    desk = Desk(HOURLY)
    waiting = _waiter(desk)
    desk.report(0)
    with pytest.raises(QuotaExceeded) as refused:
        waiting.result()
    assert refused.value.reason == "QUOTA_EXCEEDED"
    before = desk.wakes
    for _ in range(100):
        with pytest.raises(QuotaExceeded):
            desk.reserve()
    assert desk.wakes == before, "no report for calls whose answer is known"
    assert refused.value.context == {
        "quotaType": "requests per hour",
        "currentUsage": 77,
        "limit": 10_000,
        "window": "hour",
    }
    assert refused.value.retry_after_s == 0.5
    kinds = {detail.TypeName() for detail in to_status(refused.value).details}
    assert kinds >= {"google.rpc.QuotaFailure", "google.rpc.RetryInfo", "google.rpc.ErrorInfo"}
    desk.clock.advance(0.6)
    assert desk.reserve() is None, "time to ask again"


def test_a_quota_that_is_used_up_is_retried_when_its_window_ends() -> None:
    desk = Desk(pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_HOUR, amount=77))
    waiting = _waiter(desk)
    desk.report(0)
    with pytest.raises(QuotaExceeded) as refused:
        waiting.result()
    assert refused.value.retry_after_s == 45 * 60


def test_a_call_larger_than_a_burst_is_refused_without_asking() -> None:
    desk = Desk(TOKENS)
    with pytest.raises(QuotaExceeded) as refused:
        desk.reserve(Amounts(tokens=1_001))
    assert refused.value.reason == "RATE_LIMIT_EXCEEDED"


def test_the_turn_of_an_hour_finds_the_next_slice_there() -> None:
    desk = Desk(HOURLY, at=datetime(2026, 3, 4, 10, 58, 30, tzinfo=UTC))
    _waiter(desk)
    desk.report(50)
    desk.clock.advance(1)
    desk.reserved()
    request = desk.report(*([60] * 2))
    starts = [limit.key.window_start.ToDatetime().hour for limit in request.limits]
    assert sorted(starts) == [10, 11]
    desk.clock.advance(89)
    assert desk.clock.now().hour == 11
    assert desk.reserve() is not None


def test_a_changed_limit_keeps_what_is_held_and_a_removed_one_counts_no_more() -> None:
    desk = Desk(AT_ONCE)
    assert desk.reserve() is None
    desk.report(2)
    held = desk.reserved()
    desk.limits = (pb.Limit(resource=pb.RESOURCE_CONCURRENCY, window=pb.WINDOW_MOMENT, amount=50),)
    assert desk.calls_left() == 1
    desk.limits = ()
    assert desk.reserve() is NO_LIMITS
    held.settle(ONE)


def test_out_of_reach_means_the_share_and_then_a_retry_hint() -> None:
    desk = Desk(CALLS)
    assert desk.reserve() is None
    desk.report(0)
    desk.clock.advance(1)
    desk.book.disconnected()
    desk.clock.advance(2)
    with pytest.raises(QuotaUnavailable) as refused:
        desk.reserve()
    assert refused.value.retry_after_s == pytest.approx(3.0 + 1 / 50)
    desk.clock.advance(3 + 0.2)
    assert desk.calls_left() == 10, "half of 100 a second, from nothing"
    desk.clock.advance(60)
    assert desk.calls_left() == 50, "half of the burst"
    desk.clock.advance(300)
    assert desk.calls_left() == 0, "a share ends"


def test_a_gateway_without_a_share_refuses_with_a_retry_hint() -> None:
    desk = Desk(CALLS)
    desk.book.disconnected()
    desk.clock.advance(5)
    with pytest.raises(QuotaUnavailable) as refused:
        desk.reserve()
    assert refused.value.retry_after_s == 0.5


def test_places_and_slices_outlast_quota_for_as_long_as_the_share_does() -> None:
    desk = Desk(AT_ONCE, HOURLY)
    assert desk.reserve() is None
    desk.report(5, 50, place_ttl_ms=300_000)
    desk.book.disconnected()
    desk.clock.advance(1.9)
    assert desk.reserve() is not None
    desk.clock.advance(299)
    assert desk.calls_left() == 0


def test_rates_go_by_the_share_while_their_store_is_lost_and_slices_are_granted() -> None:
    desk = Desk(CALLS, HOURLY)
    _waiter(desk)
    desk.report(1, 200)
    for _ in range(8):
        desk.tick(store_lost=True)
    assert desk.calls_left() == 50


def test_leaving_returns_all_but_calls_under_way() -> None:
    desk = Desk(CALLS, AT_ONCE, HOURLY)
    assert desk.reserve() is None
    desk.report(9, 9, 90)
    desk.reserved()
    rate, places, slices = desk.report(0, 1, 0, leaving=True).limits
    assert (rate.returned, rate.held) == (8, 0)
    assert (places.wanted, places.in_use) == (1, 1)
    assert (slices.returned, slices.held) == (89, 0)


async def test_a_grant_wakes_calls_in_the_order_in_which_they_came() -> None:
    desk = Desk(CALLS)
    waiting = [asyncio.create_task(desk.book.granted("acme", "m", ONE, 5.0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert desk.report(2).limits[0].waiting == 3
    await asyncio.wait(waiting)
    assert [task.exception() is None for task in waiting] == [True, True, False]
    assert desk.book.waiting == 0


async def test_a_cancelled_call_takes_nothing_along() -> None:
    desk = Desk(AT_ONCE)
    waiting = asyncio.create_task(desk.book.granted("acme", "m", ONE, 5.0))
    await asyncio.sleep(0)
    desk.report(1)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert desk.calls_left() == 1


async def test_nobody_waits_longer_than_asked_for() -> None:
    desk = Desk(CALLS)
    with pytest.raises(QuotaUnavailable):
        await desk.book.granted("acme", "m", ONE, 0.0)
    assert desk.book.waiting == 0


def test_an_answer_to_another_report_is_refused() -> None:
    desk = Desk(CALLS)
    request, needs = desk.exchange.report(0.0)
    with pytest.raises(ValueError, match="another report"):
        desk.exchange.take(request, needs, leases_pb2.LeaseResponse(sequence=9), sent_s=0.0, now_s=0.0)


def _waiter(desk: Desk) -> asyncio.Future[Reservation]:
    loop = asyncio.new_event_loop()
    answer: asyncio.Future[Reservation] = asyncio.Future(loop=loop)
    loop.close()
    desk.book.enqueue("acme", "m", ONE, answer)
    return answer
