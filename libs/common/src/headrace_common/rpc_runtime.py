"""What all RPC methods of one process share: limits, metrics and the access log."""

from __future__ import annotations

import structlog
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.errors import RouteUnavailable
from headrace_common.rpc_counts import RpcCounts


class RpcRuntime:
    """Limits, counts and logs the RPCs of a process. One per process, shared by its listeners; event loop only.

    Args:
        registry: Where the metrics go.
        calls_in_flight_max: Unary and upload calls at once; the next one is refused with SERVER_OVERLOADED.
        streams_max: Response streams at once, counted apart because feeds stay open.
        call_timeout_s: Deadline of a call whose client sent none.
        message_bytes_max: Largest request message; a larger one is refused with MESSAGE_TOO_LARGE.
        access_log: Whether each finished call writes a line.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        calls_in_flight_max: int = 1_000,
        streams_max: int = 1_000,
        call_timeout_s: float = 30.0,
        message_bytes_max: int = 64 << 20,
        access_log: bool = True,
    ) -> None:
        self.calls = AdmissionGate(limit=calls_in_flight_max)
        self.streams = AdmissionGate(limit=streams_max)
        self.call_timeout_s = call_timeout_s
        self.message_bytes_max = message_bytes_max
        self.access_log = access_log
        self.log = structlog.stdlib.get_logger("rpc")
        self.counts = RpcCounts(registry=registry)


class AdmissionGate:
    """Counts what is in flight and refuses above the limit; never queues."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._taken

    def check(self) -> None:
        """Refuses where no place is free, without taking one.

        Raises:
            RouteUnavailable: SERVER_OVERLOADED (RESOURCE_EXHAUSTED).
        """
        if self._taken >= self._limit:
            raise RouteUnavailable(
                f"the server handles {self._limit} calls at once and all places are taken",
                entry=catalogue.SERVER_OVERLOADED,
                context={"limit": self._limit},
            )

    def enter(self) -> None:
        """Takes a place, or raises like `check`."""
        self.check()
        self._taken += 1

    def leave(self) -> None:
        """Gives a place back."""
        self._taken -= 1
