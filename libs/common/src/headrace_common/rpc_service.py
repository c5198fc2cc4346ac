"""A service's generic handler: who may call what is decided from metadata alone, before the body is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import grpc
import structlog

from headrace_common import catalogue
from headrace_common.call import MetadataMap, metadata_map, request_id_of
from headrace_common.errors import AuthError, HeadraceError
from headrace_common.principal import Principal
from headrace_common.rpc_method import MethodRunner, RpcMethod, refusal
from headrace_common.rpc_runtime import RpcRuntime
from headrace_common.rpc_status import from_exception

ANY_ROLE = "any"


class Authenticator(Protocol):
    """Finds out from metadata who calls. Synchronous and in memory: it runs on the event loop for each call."""

    def __call__(self, method: str, metadata: MetadataMap, /) -> Principal | None:
        """The caller, or None where this listener knows no callers.

        Raises:
            HeadraceError: The call is refused with exactly this failure.
        """
        ...


class ServiceHandler(grpc.GenericRpcHandler):
    """Serves the methods of one service. Build it with `service_handler`."""

    def __init__(
        self,
        *,
        service: str,
        methods: Mapping[str, RpcMethod[Any, Any]],
        runtime: RpcRuntime,
        authenticate: Authenticator | None,
    ) -> None:
        if authenticate is not None and (bare := [name for name, method in methods.items() if method.role is None]):
            raise ValueError(f"{service}: methods without a policy: {', '.join(sorted(bare))}")
        self.service_name = service
        self._authenticate = authenticate
        self._runtime = runtime
        self._runners = {
            (path := f"/{service}/{name}"): MethodRunner(path=path, method=method, runtime=runtime)
            for name, method in methods.items()
        }
        self._log = structlog.stdlib.get_logger("rpc")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Grpc's hook: None lets the next generic handler answer; a refusal ends the call without its body."""
        path = handler_call_details.method
        runner = self._runners.get(path)
        if runner is None:
            return None
        metadata = metadata_map(handler_call_details.invocation_metadata)
        try:
            principal = self._admitted(runner, metadata)
        except Exception as error:  # noqa: BLE001 - a defect in an authenticator must refuse, not let through
            request_id = request_id_of(metadata)
            failure = from_exception(error, request_id)
            if failure is not error:
                self._log.error("unexpected failure", correlation_id=request_id, method=path, exc_info=error)
            elif self._runtime.access_log:
                self._log.info("call refused", method=path, reason=failure.reason, request_id=request_id)
            self._runtime.counts.method(path).ended(failure.entry.grpc, failure.reason)
            return refusal(failure, request_id)
        return runner.handler(principal)

    def end_streams(self) -> None:
        """Ends the service's endless streams with SERVER_DRAINING: the server is stopping."""
        for runner in self._runners.values():
            runner.end_streams()

    def _admitted(self, runner: MethodRunner, metadata: MetadataMap) -> Principal | None:
        principal = self._authenticate(runner.path, metadata) if self._authenticate is not None else None
        role = runner.method.role
        if role is not None and self._authenticate is not None:
            if principal is None:
                raise AuthError("the call carries no credential", entry=catalogue.CREDENTIAL_MISSING)
            if role != ANY_ROLE and not principal.allows(role):
                raise AuthError(
                    f"this method needs the role {role}", entry=catalogue.ROLE_FORBIDDEN, context={"required": role}
                )
        runner.gate.check()
        return principal


def service_handler(
    service: str,
    methods: Mapping[str, RpcMethod[Any, Any]],
    *,
    runtime: RpcRuntime,
    authenticate: Authenticator | None = None,
) -> ServiceHandler:
    """Builds the handler of one service.

    Args:
        service: Full name, such as `headrace.quota.v1.TenantService`.
        methods: Name to `unary(…)`, `server_stream(…)`, `client_stream(…)` or `bidi_stream(…)`.
        runtime: The process's shared limits, metrics and log.
        authenticate: Who calls; without one the service is open and every method's `role` is ignored.

    Raises:
        ValueError: There is an authenticator and a method states no role.
    """
    return ServiceHandler(service=service, methods=methods, runtime=runtime, authenticate=authenticate)


def refuse_call(error: HeadraceError, metadata: MetadataMap) -> grpc.RpcMethodHandler[Any, Any]:
    """For generic handlers of your own: ends the call with `error` before its body is read."""
    return refusal(error, request_id_of(metadata))
