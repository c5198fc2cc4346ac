"""Running the mesh: devices, starts, time, runners, routes."""

from __future__ import annotations

from headrace_common.catalogue.entry import LATER, SOON, CatalogueEntry

DEVICE_NOT_AVAILABLE = CatalogueEntry(
    code="DEVICE_001",
    reason="DEVICE_NOT_AVAILABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("device",),
    summary="No runner with the device that the request needs is connected.",
    remedy="Retry, allow another device, or start a runner that has it.",
)
DEVICE_OUT_OF_MEMORY = CatalogueEntry(
    code="DEVICE_002",
    reason="DEVICE_OUT_OF_MEMORY",
    grpc="RESOURCE_EXHAUSTED",
    http=503,
    retry=SOON,
    context=("device",),
    summary="The device has no memory left for this request.",
    remedy="Retry, or send a smaller request.",
)
DEVICE_UNKNOWN = CatalogueEntry(
    code="DEVICE_003",
    reason="DEVICE_UNKNOWN",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("device",),
    summary="The device isn't one that this mesh knows.",
    remedy="Use cpu, cuda or tpu.",
)
INITIALIZATION_FAILED = CatalogueEntry(
    code="INIT_001",
    reason="INITIALIZATION_FAILED",
    grpc="INTERNAL",
    http=500,
    context=("component",),
    summary="A component couldn't start.",
    remedy="Operators: look at the log of the named component.",
)
MIGRATION_FAILED = CatalogueEntry(
    code="INIT_002",
    reason="MIGRATION_FAILED",
    grpc="INTERNAL",
    http=500,
    context=("service", "revision"),
    summary="A schema migration couldn't be applied; nothing of it remains.",
    remedy="Operators: look at the service's log; correct the database, start again.",
)
LISTEN_FAILED = CatalogueEntry(
    code="INIT_003",
    reason="LISTEN_FAILED",
    grpc="INTERNAL",
    http=500,
    context=("address",),
    summary="The address can't be listened on.",
    remedy="Choose a free port, or stop what uses it.",
)
STATE_DIRECTORY_IN_USE = CatalogueEntry(
    code="INIT_004",
    reason="STATE_DIRECTORY_IN_USE",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("state_dir",),
    summary="Another mesh runs on this state directory.",
    remedy="Stop it, or choose another state directory.",
)
SERVICE_NOT_READY = CatalogueEntry(
    code="INIT_005",
    reason="SERVICE_NOT_READY",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("component",),
    summary="The service is still starting.",
    remedy="Retry after the hinted delay.",
)
INFERENCE_TIMEOUT = CatalogueEntry(
    code="TIMEOUT_001",
    reason="INFERENCE_TIMEOUT",
    grpc="DEADLINE_EXCEEDED",
    http=504,
    context=("model", "timeout_s"),
    summary="The inference didn't finish within its deadline.",
    remedy="Allow more time, or send a smaller request.",
)
DEADLINE_ALREADY_OVER = CatalogueEntry(
    code="TIMEOUT_002",
    reason="DEADLINE_ALREADY_OVER",
    grpc="DEADLINE_EXCEEDED",
    http=504,
    summary="The call's deadline was over before any work began.",
    remedy="Send a deadline that lies in the future; check the clocks.",
)
CALL_TIMEOUT = CatalogueEntry(
    code="TIMEOUT_003",
    reason="CALL_TIMEOUT",
    grpc="DEADLINE_EXCEEDED",
    http=504,
    context=("method", "timeout_s"),
    summary="The call didn't finish within its deadline.",
    remedy="Allow more time and repeat the call.",
)
CALL_CANCELLED = CatalogueEntry(
    code="TIMEOUT_004",
    reason="CALL_CANCELLED",
    grpc="CANCELLED",
    http=499,
    summary="The caller, or a shutdown, cancelled the call.",
    remedy="Repeat the call if its result still matters.",
)
MODEL_LOAD_TIMEOUT = CatalogueEntry(
    code="TIMEOUT_005",
    reason="MODEL_LOAD_TIMEOUT",
    grpc="DEADLINE_EXCEEDED",
    http=504,
    context=("model", "version"),
    summary="The model took longer to load, or to be let go, than a runner or the caller allows.",
    remedy="Give the call more time, or make the model smaller; operators: raise HEADRACE_RUNNER_MODEL_LOAD_TIMEOUT_S.",
)
RUNNER_LOST = CatalogueEntry(
    code="RUNNER_001",
    reason="RUNNER_LOST",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("runner",),
    summary="The runner went away while it had the call, and no other could take it in time.",
    remedy="Retry; the request may have been computed, but no answer was sent.",
)
RUNNER_NOT_AVAILABLE = CatalogueEntry(
    code="RUNNER_002",
    reason="RUNNER_NOT_AVAILABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("model",),
    summary="No connected runner can serve the model.",
    remedy="Retry, or start a runner that has the model's backend.",
)
RUNNER_OVERLOADED = CatalogueEntry(
    code="RUNNER_003",
    reason="RUNNER_OVERLOADED",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    retry=SOON,
    context=("model", "limit"),
    summary="The queues of all runners of the model are full.",
    remedy="Retry after the hinted delay; operators: add runners.",
)
RUNNER_NOT_FOUND = CatalogueEntry(
    code="RUNNER_004",
    reason="RUNNER_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    context=("runner",),
    summary="No such runner is connected.",
    remedy="List the runners.",
)
RUNNER_DRAINING = CatalogueEntry(
    code="RUNNER_005",
    reason="RUNNER_DRAINING",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("runner",),
    summary="The runner is draining and takes no new calls.",
    remedy="Retry; another runner takes the call.",
)
RUNNER_PROTOCOL_UNSUPPORTED = CatalogueEntry(
    code="RUNNER_006",
    reason="RUNNER_PROTOCOL_UNSUPPORTED",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("protocol",),
    summary="Runner and gateway have no mesh protocol version in common.",
    remedy="Upgrade the older of the two.",
)
RUNNER_PROTOCOL_VIOLATION = CatalogueEntry(
    code="RUNNER_007",
    reason="RUNNER_PROTOCOL_VIOLATION",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("rule",),
    summary="A peer broke a rule of the mesh protocol; its session ended.",
    remedy="Operators: look at both logs; this is a defect.",
)
SESSION_UNKNOWN = CatalogueEntry(
    code="RUNNER_008",
    reason="SESSION_UNKNOWN",
    grpc="UNAUTHENTICATED",
    http=401,
    summary="A data lane named no session, or one that has ended.",
    remedy="The runner registers again by itself.",
)
BACKEND_MISSING = CatalogueEntry(
    code="RUNNER_009",
    reason="BACKEND_MISSING",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("backend",),
    summary="The runner doesn't have the backend that the model needs.",
    remedy="Start a runner with that backend's extra installed.",
)
READER_TOO_SLOW = CatalogueEntry(
    code="RUNNER_010",
    reason="READER_TOO_SLOW",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    context=("limit",),
    summary="The caller read a stream too slowly; the call was cancelled.",
    remedy="Read faster, or ask for less output.",
)
RUNNER_STATE_INVALID = CatalogueEntry(
    code="RUNNER_011",
    reason="RUNNER_STATE_INVALID",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("runner",),
    summary="The runner isn't in a state that allows this.",
    remedy="Look at the runner's state, then repeat the call.",
)
QUEUE_TIMEOUT = CatalogueEntry(
    code="RUNNER_012",
    reason="QUEUE_TIMEOUT",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    retry=SOON,
    context=("model", "timeout_s"),
    summary="The request waited in the queue for as long as the model's policy allows.",
    remedy="Retry after the hinted delay, or give the request a higher priority.",
)
REGISTRY_UNAVAILABLE = CatalogueEntry(
    code="ROUTE_001",
    reason="REGISTRY_UNAVAILABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="The registry can't be reached.",
    remedy="Retry; operators: look at the registry.",
)
UPSTREAM_UNAVAILABLE = CatalogueEntry(
    code="ROUTE_002",
    reason="UPSTREAM_UNAVAILABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("service",),
    summary="A service that the call needs can't be reached.",
    remedy="Retry; operators: look at the named service.",
)
METHOD_UNKNOWN = CatalogueEntry(
    code="ROUTE_003",
    reason="METHOD_UNKNOWN",
    grpc="UNIMPLEMENTED",
    http=501,
    context=("method",),
    summary="The server doesn't have this method.",
    remedy="Check the method's name and the server's version.",
)
SERVER_OVERLOADED = CatalogueEntry(
    code="ROUTE_004",
    reason="SERVER_OVERLOADED",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    retry=SOON,
    context=("limit",),
    summary="The server has as many calls in flight as it takes.",
    remedy="Retry after the hinted delay.",
)
SERVER_DRAINING = CatalogueEntry(
    code="ROUTE_005",
    reason="SERVER_DRAINING",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="The server is shutting down and takes no new calls.",
    remedy="Retry; another replica takes the call.",
)
CATALOG_NOT_READY = CatalogueEntry(
    code="ROUTE_006",
    reason="CATALOG_NOT_READY",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="This gateway hasn't received the model table yet.",
    remedy="Retry after the hinted delay.",
)
RETRIES_EXHAUSTED = CatalogueEntry(
    code="ROUTE_007",
    reason="RETRIES_EXHAUSTED",
    grpc="UNAVAILABLE",
    http=503,
    retry=LATER,
    context=("attempts",),
    summary="The call failed on every runner that it was tried on.",
    remedy="Retry later; operators: look at the runners.",
)
SERVICE_UNKNOWN = CatalogueEntry(
    code="ROUTE_008",
    reason="SERVICE_UNKNOWN",
    grpc="NOT_FOUND",
    http=404,
    summary="The health check names a service that isn't served here.",
    remedy="Check the service's name.",
)
CIRCUIT_OPEN = CatalogueEntry(
    code="ROUTE_009",
    reason="CIRCUIT_OPEN",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("model",),
    summary="The model has failed too often on every runner that has it; requests are held off for a while.",
    remedy="Retry after the hinted delay; if it lasts, look at the model's errors.",
)
CONCURRENCY_EXCEEDED = CatalogueEntry(
    code="ROUTE_010",
    reason="CONCURRENCY_EXCEEDED",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    retry=SOON,
    context=("scope", "limit"),
    summary="As many requests of the tenant, model or runner are open as may be, and the waiting room is full.",
    remedy="Retry after the hinted delay, or send fewer requests at once.",
)
LOAD_SHED = CatalogueEntry(
    code="ROUTE_011",
    reason="LOAD_SHED",
    grpc="RESOURCE_EXHAUSTED",
    http=503,
    retry=SOON,
    context=("priority",),
    summary="The mesh has more work than it can do, and a more urgent request took the place of this one.",
    remedy="Retry after the hinted delay, or give the request a higher priority.",
)
SEQUENCE_NOT_FOUND = CatalogueEntry(
    code="ROUTE_012",
    reason="SEQUENCE_NOT_FOUND",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("sequence_id",),
    summary="The sequence was never started, has ended or expired, or its runner was lost with its state.",
    remedy="Start the sequence anew with sequence_start.",
)
SEQUENCE_LIMIT_REACHED = CatalogueEntry(
    code="ROUTE_013",
    reason="SEQUENCE_LIMIT_REACHED",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    retry=LATER,
    context=("model", "limit"),
    summary="As many sequences of the model live as may at once.",
    remedy="End sequences with sequence_end, or retry when others have expired.",
)
EXECUTION_TIMEOUT = CatalogueEntry(
    code="TIMEOUT_006",
    reason="EXECUTION_TIMEOUT",
    grpc="DEADLINE_EXCEEDED",
    http=504,
    context=("model", "timeout_s"),
    summary="The model computed longer than one execution may; it was given up.",
    remedy="Send a smaller request, or allow longer executions in the model's manifest.",
)
DEADLINE_UNREACHABLE = CatalogueEntry(
    code="TIMEOUT_007",
    reason="DEADLINE_UNREACHABLE",
    grpc="DEADLINE_EXCEEDED",
    http=504,
    context=("model", "needed_s"),
    summary="The request could not have been answered before its deadline, so it was not begun.",
    remedy="Allow more time, or send fewer requests at once.",
)
