"""Asks a process whether it still gets on with what it computes."""

from __future__ import annotations

import selectors
import socket

from headrace_runner.backends.llamacpp.child_process import Endpoint

_ANSWERED = b"HTTP/1.1 200"
_READ_BYTES = 1 << 12


class Probe:
    """Asks for the slots, of which the process tells between two batches. One question at a time, and never blocks.

    Args:
        selector: Tells by `told`, as the data of its key, that `read` is to be called.
    """

    def __init__(self, *, endpoint: Endpoint, selector: selectors.BaseSelector, told: object) -> None:
        self._endpoint = endpoint
        self._selector = selector
        self._told = told
        self._socket: socket.socket | None = None

    def ask(self) -> None:
        """Asks, unless a question is open. Where that is impossible now, the next time may do."""
        if self._socket is not None:
            return
        asking = None
        try:
            asking = socket.socket(socket.AF_UNIX)
            asking.setblocking(False)
            asking.connect(self._endpoint.socket)
            asking.send(
                f"GET /slots HTTP/1.1\r\nHost: model\r\nAuthorization: Bearer {self._endpoint.key}\r\n\r\n".encode()
            )
        except OSError:
            if asking is not None:
                asking.close()
            return
        self._selector.register(asking, selectors.EVENT_READ, self._told)
        self._socket = asking

    def read(self) -> bool:
        """Takes what came, and says whether it is an answer. The question is no longer open."""
        try:
            data = self._socket.recv(_READ_BYTES) if self._socket is not None else b""
        except OSError:
            data = b""
        self.close()
        return data.startswith(_ANSWERED)

    def close(self) -> None:
        """Safe to call again."""
        asking, self._socket = self._socket, None
        if asking is not None:
            self._selector.unregister(asking)
            asking.close()
