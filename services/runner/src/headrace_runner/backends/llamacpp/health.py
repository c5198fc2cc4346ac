"""Asks a process whether it still gets on with what it computes."""

from __future__ import annotations

import socket
from http.client import HTTPConnection

from headrace_runner.backends.llamacpp.child_process import Endpoint

_TIMEOUT_S = 2.0


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("model", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def answers(endpoint: Endpoint) -> bool:
    """Whether it tells of its slots, which it does between two batches. Blocks, for two seconds at most.

    Raises:
        OSError: It doesn't listen, or not answer in time.
        HTTPException: It answers nonsense.
    """
    connection = _UnixConnection(endpoint.socket)
    try:
        connection.request("GET", "/slots", headers={"Authorization": f"Bearer {endpoint.key}"})
        return connection.getresponse().status == 200
    finally:
        connection.close()
