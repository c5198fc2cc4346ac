"""Between the book and the messages of the lease stream. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.quota.internal.v1 import leases_pb2 as pb
from headrace_gateway.quota.calendar_lease import CalendarLease
from headrace_gateway.quota.lease import Lease, Need, Share
from headrace_gateway.quota.lease_book import LeaseBook

LIMITS_MAX = 1_000
"""Limits in one report; what doesn't fit comes with the next."""
GRANT_MAX_AGE_S = 2.0
"""A grant that takes longer from the sending of its report is dropped."""
_RETRY_MIN_S = 0.01

Needs = Sequence[tuple[Lease, Need]]


class LeaseExchange:
    """One gateway's reports, numbered over all its streams, and what it makes of the answers.

    Args:
        jitter: 0 to 1; spreads when gateways that were refused together ask again.
    """

    def __init__(self, *, book: LeaseBook, gateway_id: str, jitter: Callable[[], float]) -> None:
        self._book = book
        self._gateway_id = gateway_id
        self._jitter = jitter
        self._sequence = 0
        self._answered = 0
        self._good_sent_s: float | None = None
        self._replaces: dict[str, None] = {}
        self.store_lost = False

    def replace(self, gateway_id: str) -> None:
        """A former gateway is known to have ended: told with the next report that is answered."""
        self._replaces[gateway_id] = None

    def report(self, now_s: float, *, leaving: bool = False) -> tuple[pb.LeaseRequest, Needs]:
        """The next report, sent at `now_s`."""
        self._sequence += 1
        if leaving:
            self._book.leave()
        needs = self._book.needs(self._sequence, most=LIMITS_MAX)
        share = self._book.share
        request = pb.LeaseRequest(
            gateway_id=self._gateway_id,
            sequence=self._sequence,
            answered=self._answered,
            replaces=list(self._replaces),
            leaving=leaving,
            share=share.part if now_s < share.until_s else 0.0,
        )
        for lease, need in needs:
            limit = request.limits.add(
                wanted=need.wanted,
                waiting=need.waiting,
                returned=need.returned,
                in_use=need.in_use,
                held=need.held,
            )
            key = lease.key
            limit.key.tenant_id = key.tenant_id
            limit.key.model = key.model
            limit.key.resource = key.resource  # pyright: ignore[reportAttributeAccessIssue]
            limit.key.window = key.window  # pyright: ignore[reportAttributeAccessIssue]
            if key.window_start:
                limit.key.window_start.seconds = key.window_start
        return request, needs

    def take(
        self, request: pb.LeaseRequest, needs: Needs, response: pb.LeaseResponse, *, sent_s: float, now_s: float
    ) -> bool:
        """Takes an answer that came in time, and lets waiting calls through.

        Returns:
            Whether the next report should go out at once.

        Raises:
            ValueError: It answers another report.
        """
        if response.sequence != request.sequence or len(response.limits) != len(needs):
            raise ValueError("the answer is to another report")
        self._answered = request.sequence
        for gateway_id in request.replaces:
            self._replaces.pop(gateway_id, None)
        self.store_lost = response.store_lost
        # Also of a gateway that never heard of the store: what others were granted lately is still in use.
        if self._good_sent_s is None or not response.store_lost:
            self._good_sent_s = sent_s
        share = Share(
            part=response.share,
            from_s=self._good_sent_s + response.share_after_ms / 1_000,
            until_s=sent_s + response.share_for_ms / 1_000,
        )
        for (lease, need), grant in zip(needs, response.limits, strict=True):
            self._grant(lease, need, grant, share=share, sent_s=sent_s, now_s=now_s)
        self._book.renewed(share=share, store_lost=response.store_lost)
        self._book.answer_waiting()
        # What is granted call by call fills up again only from when quota hears that it was used.
        return any(lease.small and need.waiting and lease.free <= 0 for lease, need in needs)

    def _grant(
        self, lease: Lease, need: Need, grant: pb.LimitGrant, *, share: Share, sent_s: float, now_s: float
    ) -> None:
        calendar = isinstance(lease, CalendarLease)
        if grant.unknown:
            lease.void()
            self._refused(lease, -1, 0.25, now_s)
            return
        if self.store_lost and not calendar:
            return
        until_s = min(share.until_s, lease.over_s) if calendar else sent_s + grant.ttl_ms / 1_000
        lease.grant(need, grant.granted, until_s)
        if grant.granted:
            self._book.live[lease.key] = lease
        if need.waiting > grant.granted - need.held:
            self._refused(lease, grant.used, grant.retry_after_ms / 1_000, now_s)
        else:
            lease.refused_until_s = 0.0

    def _refused(self, lease: Lease, used: int, retry_after_s: float, now_s: float) -> None:
        lease.used = used
        lease.refused_until_s = now_s + max(_RETRY_MIN_S, retry_after_s * (0.75 + self._jitter() / 2))
