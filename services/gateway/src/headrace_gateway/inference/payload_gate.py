"""One bound on the bytes of all requests that this gateway holds."""

from __future__ import annotations

from headrace_common import catalogue
from headrace_common.allocator import HUGE_BYTES
from headrace_common.errors import RouteUnavailable


class PayloadGate:
    """Counts the bytes of requests in flight and refuses above the limit; never queues. One event loop.

    Whether few large or many small requests fill it, the process's memory stays bounded.

    Attributes:
        huge: Huge requests so far.
    """

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.held_bytes = 0
        self.huge = 0

    def enter(self, payload_bytes: int) -> None:
        """Takes room for a request.

        Raises:
            RouteUnavailable: SERVER_OVERLOADED (RESOURCE_EXHAUSTED).
        """
        if self.held_bytes + payload_bytes > self._bytes_max:
            raise RouteUnavailable(
                f"the gateway holds {self.held_bytes} bytes of requests; with this one they would be more than "
                f"{self._bytes_max}",
                entry=catalogue.SERVER_OVERLOADED,
                context={"limit": self._bytes_max},
            )
        self.held_bytes += payload_bytes
        if payload_bytes >= HUGE_BYTES:
            self.huge += 1

    def leave(self, payload_bytes: int) -> None:
        """Gives the room back."""
        self.held_bytes -= payload_bytes
