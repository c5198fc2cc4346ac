"""How a server leaves a port that other processes listen on, too, so that nobody who connects meanwhile is turned away.

The kernel gives each new connection to one of the listeners of the port (SO_REUSEPORT). What it has given to one that
closes before it accepts is reset, though others would take it, and gRPC clients then wait a second before they try
again. Taking a listener out of the port and closing it are one and the same to the kernel. So first no new connection
is begun here: a filter on the listener drops SYN, which a client's kernel sends again after a second, to whom listens
then. What had begun before is accepted. Then the listener is shut down, and from then on the others get everything.

Only Linux deals out connections so. Elsewhere, and where the kernel refuses, nothing is done.

Source: Linux, net/core/sock_reuseport.c and inet_csk_listen_stop(); Documentation/networking/filter.rst
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import stat
import struct
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

_FILES = Path("/proc/self/fd")
_LOOK_S = 0.005
# Clients whose connections are half made have that long to finish them.
_LOOKS_MIN = 4
_LOOKS_MAX = 100
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_TCP_FLAGS_AT, _TCP_SYN = 13, 0x02
_DROP_SYN = b"".join(
    struct.pack("HBBI", *step)
    for step in (
        (0x30, 0, 0, _TCP_FLAGS_AT),  # load the byte
        (0x45, 0, 1, _TCP_SYN),  # skip one unless it has this bit
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # accept
    )
)
_ACCEPT_QUEUE = struct.Struct("24xI")
"""Where TCP_INFO of a listener has the connections that wait to be accepted."""


class SharedListeners:
    """The listening sockets of this process that share their port. Event loop only.

    grpc opens them and tells nobody, so they are found among the process's files.
    """

    def __init__(self) -> None:
        self._sockets: set[int] = set()

    @contextmanager
    def opening(self) -> Generator[None]:
        """What begins to listen on a shared port in this context is ours to take away."""
        before = set(_listening())
        yield
        self._sockets |= set(_listening()) - before

    async def leave(self) -> None:
        """From now on others get the connections; those that have come are accepted before. May be called again."""
        if not self._sockets:
            return
        with ExitStack() as stack, suppress(OSError):
            listeners = [
                stack.enter_context(closing(socket.socket(fileno=os.dup(file))))
                for number, file in _listening().items()
                if number in self._sockets
            ]
            try:
                for listener in listeners:
                    _drop_syn(listener)
            except OSError:
                for listener in listeners:
                    _take_syn(listener)
                raise
            for look in range(_LOOKS_MAX):
                await asyncio.sleep(_LOOK_S)
                if look >= _LOOKS_MIN and not any(map(_waiting, listeners)):
                    break
            for listener in listeners:
                listener.shutdown(socket.SHUT_RDWR)


def _listening() -> dict[int, int]:
    """Sockets that listen on a port that may be shared: the file descriptor of each by its number in the system."""
    found: dict[int, int] = {}
    try:
        files = [int(entry.name) for entry in _FILES.iterdir()]
    except OSError:
        return found
    for file in files:
        # The listing's own descriptor is closed by now.
        with suppress(OSError):
            status = os.fstat(file)
            if stat.S_ISSOCK(status.st_mode) and _listens(file):
                found[status.st_ino] = file
    return found


def _listens(file: int) -> bool:
    some = socket.socket(fileno=file)
    try:
        return some.family in (socket.AF_INET, socket.AF_INET6) and all(
            some.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_ACCEPTCONN, socket.SO_REUSEPORT)
        )
    finally:
        some.detach()


def _drop_syn(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    size = struct.calcsize("HBBI")
    listener.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN) // size, ctypes.addressof(program))
    )


def _take_syn(listener: socket.socket) -> None:
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _waiting(listener: socket.socket) -> int:
    """Connections that have come and were not accepted."""
    (waiting,) = _ACCEPT_QUEUE.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPT_QUEUE.size))
    return waiting
