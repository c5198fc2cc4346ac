"""A service that this gateway passes calls on to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from headrace_common.catalogue import (
    CALL_TIMEOUT,
    REGISTRY_UNAVAILABLE,
    UPSTREAM_UNAVAILABLE,
    CatalogueEntry,
)
from headrace_common.errors import DeadlineError, HeadraceError, InternalError, RouteUnavailable
from headrace_common.rpc_status import STATUS_DETAILS_KEY
from headrace_gateway.principal_tokens import PrincipalTokens

Trailing = tuple[tuple[str, str | bytes], ...]
_OWN_PREFIX = "grpc-"
# grpc's own trailers are made anew on our side of the call; only the rich status travels as metadata.


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where a service is and how we prove to it for whom we call.

    Attributes:
        name: For messages and metrics, such as `registry`.
        channel: Long-lived.
    """

    name: str
    channel: grpc.aio.Channel
    tokens: PrincipalTokens

    def unreachable(self) -> RouteUnavailable:
        """What the client is told while the service can't be reached."""
        entry: CatalogueEntry = REGISTRY_UNAVAILABLE if self.name == "registry" else UPSTREAM_UNAVAILABLE
        return RouteUnavailable(
            f"the {self.name} service can't be reached", entry=entry, context={"service": self.name}
        )

    def too_slow(self) -> DeadlineError:
        """What the client is told when the call's time is over."""
        return DeadlineError(
            f"the {self.name} service did not answer within the call's deadline",
            entry=CALL_TIMEOUT,
            context={"service": self.name},
        )

    def failure(self, error: grpc.aio.AioRpcError) -> HeadraceError | None:
        """Our own failure for what the transport reported; None when the service itself answered with a rich status."""
        if any(key == STATUS_DETAILS_KEY for key, _ in pairs(error.trailing_metadata())):
            return None
        code = error.code()
        # Grpc cancels calls that reach a server as it stops; those that we cancel end with an exception of their own.
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return self.unreachable()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self.too_slow()
        return InternalError(f"the {self.name} service answered {code.name} without details")


def pairs(metadata: Any) -> Iterable[tuple[str, str | bytes]]:
    """Metadata of grpc, in any of its forms, as pairs."""
    return metadata if metadata is not None else ()


def forwarded(metadata: Any) -> Trailing:
    """An upstream's trailing metadata as the client gets it: all but what grpc writes itself."""
    return tuple(
        (key, value) for key, value in pairs(metadata) if key == STATUS_DETAILS_KEY or not key.startswith(_OWN_PREFIX)
    )
