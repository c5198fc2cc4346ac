"""Takes a spool to the quota service, batch by batch, each until it is committed."""

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
from headrace_gateway.accounting.batch import PORTION_EVENTS, Batch
from headrace_gateway.accounting.spool import Spool
from headrace_gateway.accounting.spool_reader import SpoolReader

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
        self._sent: Batch | None = None
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
            through = await self._exchange(call, IngestRequest(spool_id=folder.id, gateway_id=folder.gateway_id))
            reader = SpoolReader(spool=self.spool, after=through)
            self._acknowledged(through)
            while (batch := await self._gathered(reader)) is not None:
                self._sent = batch
                through = await self._exchange(call, batch.finished())
                if through < batch.through:
                    raise ShippingBroken("quota acknowledged less than it was sent")
                self._acknowledged(through)
            last = IngestRequest(spool_id=folder.id, gateway_id=folder.gateway_id, closes=True)
            await self._exchange(call, last)
        except grpc.RpcError as error:
            raise ShippingBroken(_described(error)) from None
        finally:
            call.cancel()
            if reader is not None:
                reader.close()

    async def _exchange(self, call: Any, request: IngestRequest) -> int:
        """Sends a batch and returns up to where quota has the spool."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await call.write(request.SerializeToString())
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
        if response.spool_id != request.spool_id:
            raise ShippingBroken("quota answered for another spool")
        self._failing = False
        return response.through_sequence

    def _acknowledged(self, through: int) -> None:
        sent, self._sent = self._sent, None
        if sent is not None and sent.through <= through:
            self.shipped += sent.events
        try:
            self.spool.acknowledge(through)
        except OSError as error:
            # Nothing is lost by keeping it; the next acknowledgement tries again.
            self._log.warning("committed records can't be dropped", error=error.strerror)

    async def _gathered(self, reader: SpoolReader) -> Batch | None:
        """The next batch, or None at the end of a spool that nothing more is written to."""
        folder = self.spool.folder
        batch = Batch(spool_id=folder.id, gateway_id=folder.gateway_id)
        while True:
            ends = self._ends.is_set()
            await _fill(batch, reader)
            if batch.events:
                if self.behind_since is None:
                    self.behind_since = asyncio.get_running_loop().time()
                if batch.full or ends:
                    return batch
            elif ends:
                return None
            else:
                self.behind_since = None
            try:
                async with asyncio.timeout(_GATHER_S):
                    await self._ends.wait()
            except TimeoutError:
                if batch.events:
                    return batch


async def _fill(batch: Batch, reader: SpoolReader) -> None:
    while True:
        if batch.full or not reader.read(batch, events=PORTION_EVENTS):
            return
        # Calls have their turn.
        await asyncio.sleep(0)


def _described(error: grpc.RpcError) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return "the call was cancelled"
