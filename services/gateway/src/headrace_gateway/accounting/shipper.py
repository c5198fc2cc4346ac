"""Takes a spool to the quota service, portion by portion, each until it is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from headrace.quota.internal.v1.usage_ingest_pb2 import IngestRequest, IngestResponse
from headrace_gateway.accounting.segments import Portion
from headrace_gateway.accounting.spool import Spool
from headrace_gateway.accounting.spool_reader import Read, SpoolReader

INGEST = "/headrace.quota.internal.v1.UsageIngestService/Ingest"
_GATHER_S = 0.5
"""Records wait so long for company."""
_ANSWER_TIMEOUT_S = 30.0
_BACKOFF_MIN_S = 0.2
_BACKOFF_MAX_S = 5.0

Metadata = Callable[[], Sequence[tuple[str, str | bytes]]]


class ShippingBroken(Exception):
    """Quota can't be reached or did not answer as it should."""


class Shipper:
    """Sends what is in a spool and drops what quota has committed. One event loop.

    Each stream begins with the question how far quota is, so nothing is sent twice that was committed, although its
    acknowledgement was lost.

    Args:
        spool: Whose records are sent.
        channel: To quota; stays yours.
        metadata: Gives the pairs for each stream.
        random: Spreads reconnects.

    Attributes:
        spool: Where they come from.
        shipped: Events that quota has.
        behind_since: Reading of the loop's clock when something began to wait; None while nothing does.
    """

    def __init__(self, *, spool: Spool, channel: grpc.aio.Channel, metadata: Metadata, random: Random) -> None:
        self.spool = spool
        self._channel = channel
        self._metadata = metadata
        self._random = random
        self._ends = asyncio.Event()
        self._log = structlog.stdlib.get_logger("spool")
        self._failing = False
        # Sent and not acknowledged.
        self._sent: Portion | None = None
        self.shipped = 0
        self.behind_since: float | None = None

    def end(self) -> None:
        """Nothing more is written: `run` returns when all is committed and quota knows that this was the end."""
        self._ends.set()

    async def run(self) -> None:
        """Sends until `end` was called and all is there, over as many streams as it takes; or until it is cancelled."""
        failures = 0
        while True:
            shipped = self.shipped
            try:
                await self._stream()
                return
            except ShippingBroken as broken:
                failures = 0 if self.shipped > shipped else failures + 1
                if self.behind_since is None and self.spool.events > self.shipped:
                    self.behind_since = asyncio.get_running_loop().time()
                if not self._failing:
                    self._failing = True
                    self._log.warning("usage can't be told to quota; it is kept", why=str(broken))
            delay_s = min(_BACKOFF_MIN_S * 2 ** min(failures, 10), _BACKOFF_MAX_S)
            await self._pause(delay_s * self._random.uniform(0.5, 1.0))

    async def _pause(self, pause_s: float) -> None:
        """Waits; the end of the process doesn't."""
        if self._ends.is_set():
            await asyncio.sleep(pause_s)
            return
        try:
            async with asyncio.timeout(pause_s):
                await self._ends.wait()
        except TimeoutError:
            return

    async def _stream(self) -> None:
        method: Any = self._channel.stream_stream(INGEST)  # pyright: ignore[reportUnknownVariableType]
        call = method(metadata=tuple(self._metadata()))
        reader: SpoolReader | None = None
        try:
            folder = self.spool.folder
            name = IngestRequest(spool_id=folder.id, gateway_id=folder.gateway_id).SerializeToString()
            through = await self._exchange(call, name)
            reader = SpoolReader(spool=self.spool, after=through)
            self._acknowledged(through)
            while (read := await self._gathered(reader)) is not None:
                self._sent = read.upto
                # Records are fields of the message as they are.
                through = await self._exchange(call, name + read.content)
                if through < read.upto.through:
                    raise ShippingBroken("quota acknowledged less than it was sent")
                self._acknowledged(through)
            await self._exchange(call, name + IngestRequest(closes=True).SerializeToString())
        except grpc.RpcError as error:
            raise ShippingBroken(_described(error)) from None
        finally:
            call.cancel()
            if reader is not None:
                reader.close()

    async def _exchange(self, call: Any, request: bytes) -> int:
        """Sends an IngestRequest and returns up to where quota has the spool."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await call.write(request)
                answer: Any = await call.read()
        except TimeoutError:
            raise ShippingBroken(f"quota did not answer within {_ANSWER_TIMEOUT_S:g} s") from None
        except asyncio.InvalidStateError:
            raise ShippingBroken("the stream has ended") from None
        if not isinstance(answer, bytes):
            raise ShippingBroken(f"quota ended the stream: {(await call.code()).name}")
        try:
            response = IngestResponse.FromString(answer)
        except DecodeError:
            raise ShippingBroken("quota's answer can't be read") from None
        if response.spool_id != self.spool.folder.id:
            raise ShippingBroken("quota answered for another spool")
        self._failing = False
        return response.through_sequence

    def _acknowledged(self, through: int) -> None:
        sent, self._sent = self._sent, None
        if sent is not None and sent.through <= through:
            self.shipped = sent.events
        self.spool.acknowledge(through)

    async def _gathered(self, reader: SpoolReader) -> Read | None:
        """What is to be sent next, or None at the end of a spool that nothing more is written to."""
        while True:
            ends = self._ends.is_set()
            read = reader.read(rest=ends)
            if read is None and reader.behind:
                self._wait_began()
                await self._gather()
                read = reader.read(rest=True)
            if read is not None:
                self._wait_began()
                return read
            if ends:
                return None
            self.behind_since = None
            await self._gather()

    def _wait_began(self) -> None:
        if self.behind_since is None:
            self.behind_since = asyncio.get_running_loop().time()

    async def _gather(self) -> None:
        """Gives records time to find company; none when there won't be any."""
        try:
            async with asyncio.timeout(_GATHER_S):
                await self._ends.wait()
        except TimeoutError:
            return


def _described(error: grpc.RpcError) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return "the call was cancelled"
