"""The stream on which leases come: one report and its answer at a time, for as long as the gateway lives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from headrace.quota.internal.v1 import leases_pb2 as pb
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_common.grpc_client import MetadataPairs
from headrace_common.rpc_status import from_rpc_error
from headrace_gateway.quota.lease_book import LeaseBook
from headrace_gateway.quota.lease_exchange import GRANT_MAX_AGE_S, LeaseExchange
from headrace_gateway.quota.lease_metrics import LeaseMetrics

_METHOD = "/headrace.quota.internal.v1.LeaseService/Lease"
_IDLE_S = 1.0
"""Time between reports while no call waits."""
_BACKOFF_MAX_S = 1.0
_LEAVE_S = 1.0


class LeaseClient:
    """Runs exchanges of the book with quota; reconnects with backoff.

    Args:
        metadata: Gives the gateway's proof of identity for a new stream.
    """

    def __init__(
        self,
        *,
        book: LeaseBook,
        exchange: LeaseExchange,
        channel: grpc.aio.Channel,
        metadata: Callable[[], MetadataPairs],
        metrics: LeaseMetrics,
        clock: Clock,
    ) -> None:
        self._book = book
        self._exchange = exchange
        self._channel = channel
        self._metadata = metadata
        self._metrics = metrics
        self._now = clock.monotonic
        self._wanted = asyncio.Event()
        self._leaving = False
        self._left = asyncio.Event()
        self._log = structlog.stdlib.get_logger("leases")

    def wake(self) -> None:
        """The next report goes out as soon as the one before is answered."""
        self._wanted.set()

    async def run(self) -> None:
        """Exchanges reports until `leave` was told to quota, or for ever."""
        failures = 0
        while not self._left.is_set():
            try:
                failures = 0 if await self._stream() else failures + 1
                problem = "ended"
            except HeadraceError as error:
                failures += 1
                problem = error.reason
            except TimeoutError:
                failures += 1
                problem = f"no answer within {GRANT_MAX_AGE_S:g} s"
            self._book.disconnected()
            self._metrics.connected.set(0)
            if self._left.is_set() or self._leaving:
                break
            pause_s = min(0.05 * 2 ** min(failures, 10), _BACKOFF_MAX_S) * (0.5 + random.random() / 2)  # noqa: S311
            self._log.warning("lease stream interrupted", problem=problem, retry_in_s=round(pause_s, 3))
            await self._pause(pause_s)
        self._left.set()

    async def leave(self) -> None:
        """Gives everything back, as far as quota can be told within a second, and ends `run`."""
        self._leaving = True
        self.wake()
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._left.wait()
        except TimeoutError:
            pass

    async def _pause(self, pause_s: float) -> None:
        """Waits, and tells calls whose patience ends that nobody can be asked."""
        end_s = self._now() + pause_s
        while (left_s := end_s - self._now()) > 0 and not self._leaving:
            await asyncio.sleep(min(left_s, 0.1))
            self._book.answer_waiting()

    async def _stream(self) -> bool:
        """Exchanges until the stream breaks or everything was given back; whether there was any answer."""
        method: Any = self._channel.stream_stream(_METHOD)  # pyright: ignore[reportUnknownVariableType]
        call = method(metadata=tuple(self._metadata()))
        answered = False
        try:
            while True:
                leaving = self._leaving
                self._wanted.clear()
                again = await self._one(call, leaving=leaving)
                if again is None:
                    return answered
                answered = True
                self._book.connected()
                self._metrics.connected.set(1)
                if leaving:
                    self._left.set()
                    return True
                if again:
                    self._wanted.set()
                await self._until_wanted()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except asyncio.InvalidStateError:
            # The stream ended between two reports, which only the next write tells.
            return answered
        finally:
            call.cancel()

    async def _one(self, call: Any, *, leaving: bool) -> bool | None:
        """One exchange: whether the next one should follow at once, or None where the stream has ended."""
        sent_s = self._now()
        request, needs = self._exchange.report(sent_s, leaving=leaving)
        async with asyncio.timeout(GRANT_MAX_AGE_S):
            await call.write(request.SerializeToString())
            raw: Any = await call.read()
        now_s = self._now()
        if raw is grpc.aio.EOF:
            return None
        if now_s - sent_s >= GRANT_MAX_AGE_S:
            raise TimeoutError
        try:
            response = pb.LeaseResponse.FromString(raw)
            again = self._exchange.take(request, needs, response, sent_s=sent_s, now_s=now_s)
        except (DecodeError, ValueError) as error:
            self._log.error("lease answer makes no sense", error=type(error).__name__)
            return None
        self._metrics.exchange.observe(now_s - sent_s)
        return again

    async def _until_wanted(self) -> None:
        try:
            async with asyncio.timeout(_IDLE_S):
                await self._wanted.wait()
        except TimeoutError:
            pass
