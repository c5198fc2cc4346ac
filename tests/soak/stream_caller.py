"""Calls an identity model over packed streams, cancels at random, leaves streams at random; in a process of its own.

Arguments: address, key, model, number of this process, calls. Prints how the calls ended, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from random import Random

import numpy as np

from headrace_client.async_client import AsyncClient
from headrace_client.errors import CallCancelled, HeadraceError
from headrace_client.stream import InferStream

STREAMS = 2
CALLERS_PER_STREAM = 16
CANCELLED_SHARE = 0.1
CANCEL_AFTER_S_MAX = 0.02
LEFT_SHARE = 1 / 1500


class Caller:
    """Counts every call once, by how it ended."""

    def __init__(self, client: AsyncClient, model: str, process: int, calls: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.streams_left = 0
        self._client = client
        self._model = model
        self._process = process
        self._left = calls
        self._chance = Random(process)

    async def run(self) -> None:
        await asyncio.gather(*(self._run_stream() for _ in range(STREAMS)))

    async def _run_stream(self) -> None:
        """Opens one stream after the other: each is aborted with its calls in flight when a caller says so."""
        while self._left:
            leave = asyncio.Event()
            stream = self._client.stream()
            callers = [asyncio.create_task(self._call(stream, leave)) for _ in range(CALLERS_PER_STREAM)]
            leaving = asyncio.create_task(leave.wait())
            await asyncio.wait((leaving, asyncio.gather(*callers)), return_when=asyncio.FIRST_COMPLETED)
            if leave.is_set():
                self.streams_left += 1
                await stream.abort()
            else:
                await stream.close()
            leaving.cancel()
            await asyncio.gather(*callers)

    async def _call(self, stream: InferStream, leave: asyncio.Event) -> None:
        while self._left and not leave.is_set():
            self._left -= 1
            self.outcomes[await self._outcome(stream, self._process << 32 | self._left)] += 1
            if self._chance.random() < LEFT_SHARE:
                leave.set()

    async def _outcome(self, stream: InferStream, nonce: int) -> str:
        try:
            future = await stream.submit(self._model, {"x": np.array([[nonce]], np.int64)}, timeout_s=120)
            if self._chance.random() < CANCELLED_SHARE:
                await asyncio.sleep(self._chance.random() * CANCEL_AFTER_S_MAX)
                future.cancel()
            result = await future
        except asyncio.CancelledError:
            return "cancelled"
        except CallCancelled:
            return "left"
        except HeadraceError as error:
            return f"failed: {error.reason}"
        return "answered" if int(result["z"][0, 0]) == nonce else "foreign"


async def main() -> None:
    address, api_key, model, process, calls = sys.argv[1:]
    async with AsyncClient(address, api_key=api_key) as client:
        caller = Caller(client, model, int(process), int(calls))
        await caller.run()
    sys.stdout.write(json.dumps({"outcomes": caller.outcomes, "streams_left": caller.streams_left}))


if __name__ == "__main__":
    asyncio.run(main())
