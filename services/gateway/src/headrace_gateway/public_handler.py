"""The public port: every decision that metadata allows is taken here, before a call's body is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import grpc
import structlog

from headrace_common.call import metadata_map, request_id_of
from headrace_common.catalogue import METHOD_UNKNOWN
from headrace_common.errors import HeadraceError, RouteError
from headrace_common.grpc_server import RpcRuntime, refuse_call
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.rpc_status import from_exception
from headrace_gateway.features import FEATURE_OF, Features
from headrace_gateway.identity import Identity, Metadata
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.policy import Access, require

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_METHOD_CHARS_MAX = 128


class Endpoint(Protocol):
    """What answers a method once its call is admitted."""

    @property
    def gate(self) -> AdmissionGate:
        """The bound on calls in flight that the method counts against."""
        ...

    def handler(self, principal: Principal | None) -> Handler:
        """A handler for one admitted call; `principal` is None for methods that need no key."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """An endpoint whose calls may go on for ever."""

    def end_streams(self) -> None:
        """Ends them, now and in future: the server is stopping."""
        ...


class PublicHandler(grpc.GenericRpcHandler):
    """Admits or refuses each call of the public listener, then hands it to the method's endpoint.

    Args:
        endpoints: What is served, by full name such as `/package.Service/Method`.
        access: What each method demands. Every endpoint must have a line.
        identity: Who calls.
        features: What is switched off for whom.
        runtime: Shared limits, metrics and log.
        metrics: Counts refusals by reason.
        used: Told who has called.

    Raises:
        ValueError: An endpoint has no line in `access`.
    """

    def __init__(
        self,
        *,
        endpoints: Mapping[str, Endpoint],
        access: Mapping[str, Access],
        identity: Identity,
        features: Features,
        runtime: RpcRuntime,
        metrics: GatewayMetrics,
        used: Callable[[Principal], None],
    ) -> None:
        if bare := sorted(set(endpoints) - set(access)):
            raise ValueError(f"methods without a policy: {', '.join(bare)}")
        self._routes = {path: (endpoint, access[path], FEATURE_OF.get(path)) for path, endpoint in endpoints.items()}
        self._identity = identity
        self._features = features
        self._runtime = runtime
        self._metrics = metrics
        self._used = used
        self._log = structlog.stdlib.get_logger("rpc")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The hook of grpc. A refusing handler never asks for the body, so an oversized one costs no memory."""
        path = handler_call_details.method
        metadata: Any = handler_call_details.invocation_metadata
        try:
            return self._admitted(path, metadata)
        except Exception as error:  # noqa: BLE001 - a defect in here must refuse, not let through
            return self._refusal(path, metadata, error)

    def end_streams(self) -> None:
        """Ends streams that would go on for ever with SERVER_DRAINING: the server is stopping."""
        for endpoint, _, _ in self._routes.values():
            if isinstance(endpoint, Streaming):
                endpoint.end_streams()

    def _admitted(self, path: str, metadata: Metadata) -> Handler:
        route = self._routes.get(path)
        if route is None:
            raise RouteError(
                "the server does not have this method",
                entry=METHOD_UNKNOWN,
                context={"method": path[:_METHOD_CHARS_MAX]},
            )
        endpoint, demand, feature = route
        if demand is Access.PUBLIC:
            endpoint.gate.check()
            return endpoint.handler(None)
        principal = self._identity.authenticate(metadata)
        self._used(principal)
        require(demand, principal)
        if feature is not None:
            self._features.require(feature, principal.tenant_id)
        endpoint.gate.check()
        return endpoint.handler(principal)

    def _refusal(self, path: str, metadata: Metadata, error: Exception) -> Handler:
        by_name = metadata_map(metadata)
        request_id = request_id_of(by_name)
        failure: HeadraceError = from_exception(error, request_id)
        known = path if path in self._routes else "unknown"
        if failure is not error:
            self._log.error("unexpected failure", correlation_id=request_id, method=known, exc_info=error)
        elif self._runtime.access_log:
            self._log.info("call refused", method=known, reason=failure.reason, request_id=request_id)
        self._metrics.refused(failure.reason)
        self._runtime.counts.method(known).ended(failure.entry.grpc, failure.reason)
        return refuse_call(failure, by_name)
