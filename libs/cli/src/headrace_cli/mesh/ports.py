"""Which loopback port a listener of the mesh gets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from headrace_cli.mesh.failure import MeshError

LOOPBACK = "127.0.0.1"
_HIGHEST = 65535


class PortTakenError(MeshError):
    """A port that was asked for by number is taken."""

    def __init__(self, port: int, option: str) -> None:
        super().__init__(
            f"port {port} is taken by another process; choose another one with {option}, or 0 for any free port"
        )
        self.port = port


@dataclass(frozen=True, kw_only=True)
class PortChoice:
    """The port to listen on; `port` 0 leaves the choice to the kernel."""

    port: int
    # Whether the port may be given up for any other when it turns out to be taken.
    flexible: bool


class SharedPort:
    """A loopback port that several processes of the mesh listen on; the kernel gives each new connection to one.

    It is held here without listening, so that nobody else takes it while they start or none of them runs.
    """

    def __init__(self, choice: PortChoice, *, option: str) -> None:
        """Take the chosen port, or any where that is taken by now and may be given up.

        Raises:
            PortTakenError: it is taken and was asked for by number.
        """
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._bind(choice, option)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back."""
        self._socket.close()

    def _bind(self, choice: PortChoice, option: str) -> None:
        try:
            self._socket.bind((LOOPBACK, choice.port))
        except OSError as error:
            if not choice.flexible:
                raise PortTakenError(choice.port, option) from error
            self._socket.bind((LOOPBACK, 0))


def choose_port(*, asked: int | None, default: int, option: str, is_free: Callable[[int], bool]) -> PortChoice:
    """Decide by what was asked for: nothing means the default or else any, 0 means any, a number means that number.

    Raises:
        PortTakenError: a port that was asked for by number is taken.
    """
    if asked == 0:
        return PortChoice(port=0, flexible=True)
    if asked is not None:
        if not is_free(asked):
            raise PortTakenError(asked, option)
        return PortChoice(port=asked, flexible=False)
    if is_free(default):
        return PortChoice(port=default, flexible=True)
    return PortChoice(port=0, flexible=True)


def first_free_ports(*, start: int, count: int, is_free: Callable[[int], bool]) -> list[int]:
    """The first `count` free ports upward from `start`; 0 (any) for those that are missing after 200 tries."""
    found = [port for port in range(start, min(start + 200, _HIGHEST + 1)) if is_free(port)][:count]
    return found + [0] * (count - len(found))


def is_free(port: int) -> bool:
    """Whether nobody listens on a loopback port now; somebody may take it before the caller does."""
    with socket.socket() as probe:
        # Without it a port whose last connections are still closing would look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def any_free_port() -> int:
    """A free loopback port for a server that can't choose one itself; somebody may take it first."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
