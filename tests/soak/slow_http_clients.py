"""Clients that send a byte a second after the beginning of a request, in a process of their own at low priority.

Says `started`, waits for a line, connects them all within a second and prints, as JSON, how long the first and the last
of them lasted and how many were told 408.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from typing import Any

import uvloop

HEAD = b"GET /health HTTP/1.1\r\nHost: here\r\nX: "
BODY = b"POST /v1/infer HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
BETWEEN_S = 1.0


class SlowClient(asyncio.Protocol):
    """One connection; `lasted` gets how long it was open, and whether its end was explained."""

    def __init__(self, start: bytes, lasted: asyncio.Future[tuple[float, bool]]) -> None:
        self._start = start
        self._lasted = lasted
        self._answer = b""
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._start)
        self._next = self._loop.call_later(BETWEEN_S, self._more)

    def data_received(self, data: bytes) -> None:
        self._answer += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._next.cancel()
        self._lasted.set_result((self._loop.time() - self._begun, self._answer.startswith(b"HTTP/1.1 408 ")))

    def _more(self) -> None:
        self._transport.write(b"x")
        self._next = self._loop.call_later(BETWEEN_S, self._more)


async def client(host: str, port: int, start: bytes) -> tuple[float, bool]:
    # Each in its own time, as clients that know nothing of each other are.
    await asyncio.sleep(random.uniform(0, BETWEEN_S))
    loop = asyncio.get_running_loop()
    lasted: asyncio.Future[tuple[float, bool]] = loop.create_future()
    await loop.create_connection(lambda: SlowClient(start, lasted), host, port)
    return await lasted


async def main() -> None:
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.nice(10)
    sys.stdout.write("started\n")
    sys.stdout.flush()
    sys.stdin.readline()
    ended = await asyncio.gather(*(client(host, port, BODY if index % 2 else HEAD) for index in range(count)))
    times = [seconds for seconds, _ in ended]
    told = {"least_s": min(times), "most_s": max(times), "told": sum(explained for _, explained in ended)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    uvloop.run(main())
