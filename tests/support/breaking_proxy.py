"""A TCP proxy whose connections break when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random


class BreakingProxy:
    """Passes bytes to one address.

    Attributes:
        address: Where it listens.
        breaks: Connections that were broken.
    """

    def __init__(self, target: str, *, pause_s: float) -> None:
        self.address = ""
        self._pause_s = pause_s
        self.breaks = 0
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    def break_one(self, random: Random) -> None:
        """Resets one of the connections, if there are any."""
        if self._open:
            random.choice(list(self._open)).transport.abort()
            self.breaks += 1

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection until either end closes it."""
        task = asyncio.current_task()
        assert task is not None
        self._open[writer] = task
        upstream: asyncio.StreamWriter | None = None
        try:
            await asyncio.sleep(self._pause_s)
            answers, upstream = await asyncio.open_connection(self._host, self._port)
            passing = [asyncio.ensure_future(_carry(reader, upstream)), asyncio.ensure_future(_carry(answers, writer))]
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for side in passing:
                    side.cancel()
                await asyncio.gather(*passing, return_exceptions=True)
        except OSError:
            # Nobody listens behind the proxy for now: the client's connection breaks, which is what it is for.
            return
        finally:
            del self._open[writer]
            writer.transport.abort()
            if upstream is not None:
                upstream.transport.abort()

    async def close(self) -> None:
        """Breaks all that is open."""
        for writer in self._open:
            writer.transport.abort()
        while self._open:
            await asyncio.gather(*self._open.values(), return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while content := await reader.read(1 << 16):
            writer.write(content)
            await writer.drain()
    except OSError:
        return


@asynccontextmanager
async def breaking_proxy(target: str, *, pause_s: float = 0.0) -> AsyncGenerator[BreakingProxy]:
    """A proxy to `host:port` on a free port, which passes nothing in a connection's first `pause_s`."""
    proxy = BreakingProxy(target, pause_s=pause_s)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxy.address = f"{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
