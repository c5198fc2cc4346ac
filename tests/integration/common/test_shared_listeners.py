"""A server leaves a port that it shares: connections to come go elsewhere, those that have come are not reset."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from headrace_common.shared_listeners import SharedListeners
from support.echo import Echo, calling, say, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux deals out the connections of a port")

CLIENTS = 40


def listening(port: int = 0) -> socket.socket:
    """A listener that shares its port and accepts nothing unless told to."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(3 * CLIENTS)
    listener.setblocking(False)
    return listener


class Port:
    """A port of two listeners, and clients that connect to it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.ours = SharedListeners()
        with self.ours.opening():
            self.first = stack.enter_context(closing(listening()))
        self.number = self.first.getsockname()[1]
        self.second = stack.enter_context(closing(listening(self.number)))

    def connect(self) -> list[socket.socket]:
        """Clients that have begun to connect."""
        clients = [self._stack.enter_context(closing(socket.socket())) for _ in range(CLIENTS)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", self.number))
        return clients

    def accepted(self, listener: socket.socket) -> list[socket.socket]:
        """What had come to a listener."""
        found: list[socket.socket] = []
        with suppress(BlockingIOError):
            while True:
                found.append(self._stack.enter_context(closing(listener.accept()[0])))
        return found


@pytest.fixture
def port() -> Iterator[Port]:
    with ExitStack() as stack:
        yield Port(stack)


async def connected(client: socket.socket) -> None:
    """Waits until a client is connected; OSError when it was turned away."""
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(client, writable.set)
    try:
        await asyncio.wait_for(writable.wait(), 60)
    finally:
        loop.remove_writer(client)
    if failure := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(failure, "the connection was refused")
    client.getpeername()


async def test_what_has_come_is_accepted_and_what_comes_goes_to_the_others(port: Port) -> None:
    clients = port.connect()
    leaving = asyncio.create_task(port.ours.leave())
    await asyncio.sleep(0)
    late = port.connect()
    taken = port.accepted(port.first)
    assert 0 < len(taken) < CLIENTS, "the kernel deals out by chance, and gives the one that leaves no more"
    await leaving
    last = port.connect()
    for client in [*clients, *late, *last]:
        await connected(client)
    assert len(taken) + len(port.accepted(port.second)) == 3 * CLIENTS
    for connection in taken:
        connection.send(b"served")
        connection.close()
    served = 0
    for client in clients:
        with suppress(BlockingIOError):
            served += client.recv(6) == b"served"
    assert served == len(taken), "none of them was reset"


async def test_leaving_waits_for_what_was_not_accepted_yet(port: Port) -> None:
    port.connect()
    leaving = asyncio.create_task(port.ours.leave())
    await asyncio.sleep(0.1)
    assert not leaving.done()
    port.accepted(port.first)
    await leaving
    with pytest.raises(OSError, match="Invalid argument"):
        port.first.accept()


async def test_other_listeners_of_the_process_are_left_alone(port: Port) -> None:
    await port.ours.leave()
    await port.ours.leave()
    for client in port.connect():
        await connected(client)
    assert len(port.accepted(port.second)) == CLIENTS


async def test_a_server_that_stops_while_calls_run_gets_no_new_connection() -> None:
    echo, other = Echo(), Echo()
    shared = [("grpc.so_reuseport", 1)]
    async with serving(echo, options=shared) as (server, address), calling(address) as early:
        held = asyncio.ensure_future(say(early, "hold"))
        await echo.started.wait()
        async with serving(other, options=shared, address=address):
            await server.leave_shared_ports()
            for number in range(10):
                async with calling(address) as late:
                    await say(late, str(number))
            echo.release.set()
            assert await held == "hold"
    assert (len(echo.calls), len(other.calls)) == (1, 10)
