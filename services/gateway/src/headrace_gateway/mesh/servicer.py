"""The mesh listener: `headrace.runner.internal.v1.RunnerMesh`, as raw streams over the session state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter, Gauge

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.call import metadata_map
from headrace_common.clock import Clock
from headrace_common.errors import AuthError, HeadraceError, RunnerError
from headrace_common.lanes import (
    ByteBudget,
    LaneLimits,
    LaneViolation,
    decode_chunks,
    encode_chunk,
    run_until_one_fails,
    write_frames,
    write_paced,
)
from headrace_common.loop_load import LoopLoad
from headrace_common.reused_message import ReusedMessage
from headrace_common.rpc_service import refuse_call
from headrace_common.rpc_status import abort
from headrace_gateway.mesh.admission import Admission, Admissions, RefusedRunner
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession

PROTOCOL_VERSION = 1
_HELLO_TIMEOUT_S = 5.0
_LANES_TIMEOUT_S = 5.0
_ADMISSION_CHECK_S = 1.0
_LAST_CALLS_S = 30.0
_RUNNER_NAME_CHARS_MAX = 128
_CALL_CHUNKS = mesh_pb2.CallFrame.CHUNKS_FIELD_NUMBER
_RESULT_CHUNKS = mesh_pb2.ResultFrame.CHUNKS_FIELD_NUMBER

Context = grpc.aio.ServicerContext[Any, Any]


class SessionOver(Exception):
    """A lane has ended, or the session was closed."""


class RunnerMeshHandler(grpc.GenericRpcHandler):
    """Serves Register and Exchange.

    Args:
        admissions: Decides who may join, as what.
        directory: Where sessions are entered once both data lanes are there.
    """

    def __init__(
        self,
        *,
        gateway_id: str,
        admissions: Admissions,
        directory: RunnerDirectory,
        limits: LaneLimits,
        budget: ByteBudget,
        clock: Clock,
        load: LoopLoad,
        registry: CollectorRegistry,
    ) -> None:
        self._load = load
        self._gateway_id = gateway_id
        self._admissions = admissions
        self._directory = directory
        self._limits = limits
        self._budget = budget
        self._clock = clock
        self._sessions: dict[str, RunnerSession] = {}
        self._log = structlog.stdlib.get_logger("mesh")
        self._refused = Counter(
            "headrace_mesh_joins_refused", "Runners that were not let in, by reason", ("reason",), registry=registry
        )
        self._ended = Counter(
            "headrace_mesh_sessions_ended", "Runner sessions that ended, by reason", ("reason",), registry=registry
        )
        for name, text, value in (
            ("runners", "Runners with a session", lambda: len(directory)),
            ("calls_open", "Calls without a terminal answer", lambda: sum(s.calls.in_flight for s in list(directory))),
            ("credit_left", "Calls that runners would take", lambda: sum(s.calls.credit_left for s in list(directory))),
            ("result_bytes_held", "Bytes set aside for large results", lambda: budget.held_bytes),
        ):
            Gauge(f"headrace_mesh_{name}", text, registry=registry).set_function(value)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Grpc's hook: refuses lanes on metadata alone; who registers is refused once it has said hello."""
        metadata = metadata_map(handler_call_details.invocation_metadata)
        match handler_call_details.method:
            case "/headrace.runner.internal.v1.RunnerMesh/Register":
                authorization = metadata.get("authorization")

                async def register(_events: Any, context: Context) -> None:
                    await self._register(context, authorization)

                return grpc.stream_stream_rpc_method_handler(register)  # pyright: ignore
            case "/headrace.runner.internal.v1.RunnerMesh/Exchange":
                session = self._sessions.get(str(metadata.get("x-headrace-session", "")))
                lane = str(metadata.get("x-headrace-lane", ""))
                if session is None or not session.attach(lane):
                    error = RunnerError("no session waits for this lane", entry=catalogue.SESSION_UNKNOWN)
                    return refuse_call(error, metadata)

                async def exchange(_frames: Any, context: Context) -> None:
                    await self._exchange(context, session, lane)

                return grpc.stream_stream_rpc_method_handler(exchange)  # pyright: ignore
            case _:
                return None

    async def _register(self, context: Context, authorization: str | bytes | None) -> None:
        try:
            # Read before it is refused: a client whose first message finds the call over may not learn why.
            first = await _first_message(context)
            admission = self._admissions.admit(certificate=_certificate(context), authorization=authorization)
            hello = _hello(first)
            admission.check(hello)
            self._require_own_name(hello, admission)
        except HeadraceError as error:
            self._tell_refused(error, context)
            await abort(context, error)
        session = RunnerSession(
            hello=hello,
            limits=self._limits,
            budget=self._budget,
            clock=self._clock,
            load=self._load,
            changed=self._directory.changed,
            subject=admission.subject,
        )
        reason = "left"
        log = self._log.bind(runner=session.id, subject=session.subject)
        self._sessions[session.token] = session
        try:
            await context.write(self._welcome(session).SerializeToString())
            await run_until_one_fails(
                _read_events(context, session),
                _write_commands(context, session),
                _closed(session),
                self._enter_when_open(session, admission),
                self._leave_when_not_admitted(session, admission),
            )
        except LaneViolation as violation:
            reason = "violation"
            log.warning("the runner broke the protocol", violation=str(violation))
        except SessionOver as over:
            reason = str(over)
        except asyncio.CancelledError:
            reason = "connection lost"
            raise
        finally:
            del self._sessions[session.token]
            self._directory.remove(session)
            session.close()
            self._ended.labels(reason).inc()
            log.info("runner session ended", reason=reason)

    def _require_own_name(self, hello: mesh_pb2.Hello, admission: Admission) -> None:
        """Nobody takes the place of a runner that joined as somebody else."""
        there = self._directory.find(f"{hello.runner_name}.{hello.boot_uuid}")
        if there is not None and there.subject != admission.subject:
            raise AuthError(
                "another runner of this name and boot is here",
                entry=catalogue.JOIN_FORBIDDEN,
                context={"claim": "name"},
            )

    def _tell_refused(self, error: HeadraceError, context: Context) -> None:
        self._refused.labels(error.reason).inc()
        why = error.why if isinstance(error, RefusedRunner) else error.message
        self._log.warning("runner refused", reason=error.reason, why=why, peer=context.peer())

    async def _leave_when_not_admitted(self, session: RunnerSession, admission: Admission) -> None:
        """Ends a session whose token or certificate doesn't hold any more; calls that it has may be answered first."""
        while True:
            if not self._admissions.holds(admission):
                break
            await asyncio.sleep(_ADMISSION_CHECK_S)
        self._log.warning("what the runner joined with has ended", runner=session.id, subject=session.subject)
        session.release()
        await asyncio.sleep(_LAST_CALLS_S)
        raise SessionOver("not admitted any more")

    def _welcome(self, session: RunnerSession) -> mesh_pb2.GatewayCommand:
        welcome = mesh_pb2.Welcome(
            protocol_version=PROTOCOL_VERSION,
            gateway_id=self._gateway_id,
            session_token=session.token,
            message_bytes_max=self._limits.message_bytes_max,
            inline_bytes_max=self._limits.inline_bytes_max,
        )
        return mesh_pb2.GatewayCommand(welcome=welcome)

    async def _enter_when_open(self, session: RunnerSession, admission: Admission) -> None:
        try:
            async with asyncio.timeout(_LANES_TIMEOUT_S):
                await session.opened.wait()
        except TimeoutError:
            raise SessionOver("data lanes missing") from None
        try:
            self._require_own_name(session.hello, admission)
        except AuthError as error:
            raise SessionOver(error.message) from None
        self._directory.add(session)
        self._log.info("runner joined", runner=session.id, device=session.hello.device.type)

    async def _exchange(self, context: Context, session: RunnerSession, lane: str) -> None:
        try:
            # Not with the first frame: a status can't follow headers whose sending was cancelled with that write.
            await context.send_initial_metadata(())
            if lane == "small":
                await run_until_one_fails(
                    _closed(session),
                    _read_results(context, session),
                    write_paced(session.calls.next_small_frame, context.write, session.small_due),
                )
            else:
                await run_until_one_fails(
                    _closed(session),
                    _read_chunks(context, session),
                    write_frames(_chunk_frames(session), context.write, session.bulk_due),
                )
        except LaneViolation as violation:
            self._ended.labels("violation").inc()
            self._log.warning("the runner broke the protocol", runner=session.id, violation=str(violation))
        except SessionOver:
            return
        finally:
            session.close()


async def _first_message(context: Context) -> bytes:
    """What the runner said first; empty where it said nothing in time."""
    try:
        async with asyncio.timeout(_HELLO_TIMEOUT_S):
            return await _read(context)
    except (TimeoutError, SessionOver):
        return b""


def _hello(first: bytes) -> mesh_pb2.Hello:
    try:
        hello = mesh_pb2.RunnerEvent.FromString(first).hello
    except DecodeError:
        hello = mesh_pb2.Hello()
    if hello == mesh_pb2.Hello():
        raise RunnerError("the runner did not say hello", entry=catalogue.RUNNER_PROTOCOL_VIOLATION)
    if hello.protocol_version < PROTOCOL_VERSION:
        raise RunnerError(
            f"this gateway speaks protocol version {PROTOCOL_VERSION}, the runner {hello.protocol_version}",
            entry=catalogue.RUNNER_PROTOCOL_UNSUPPORTED,
        )
    if not (0 < len(hello.runner_name) <= _RUNNER_NAME_CHARS_MAX and hello.boot_uuid and hello.device.type):
        raise RunnerError("the hello names no runner, boot or device", entry=catalogue.RUNNER_PROTOCOL_VIOLATION)
    return hello


def _certificate(context: Context) -> bytes | None:
    """The peer's, where the listener demands one."""
    shown: Any = context.auth_context()
    found = shown.get("x509_pem_cert")
    return found[0] if found else None


async def _closed(session: RunnerSession) -> None:
    await session.closed.wait()
    raise SessionOver("closed")


async def _read(context: Context) -> bytes:
    message = await context.read()
    if isinstance(message, bytes):
        return message
    raise SessionOver("the runner left")


async def _read_events(context: Context, session: RunnerSession) -> None:
    while True:
        try:
            event = mesh_pb2.RunnerEvent.FromString(await _read(context))
        except DecodeError:
            raise LaneViolation("malformed event") from None
        session.on_event(event)


async def _write_commands(context: Context, session: RunnerSession) -> None:
    while True:
        command = await session.commands.get()
        await context.write(command.SerializeToString())


async def _read_results(context: Context, session: RunnerSession) -> None:
    reused = ReusedMessage(mesh_pb2.ResultFrame)
    while True:
        received = await _read(context)
        frame = reused.take(len(received))
        try:
            frame.MergeFromString(received)
        except DecodeError:
            raise LaneViolation("malformed result frame") from None
        session.on_results(frame)


async def _read_chunks(context: Context, session: RunnerSession) -> None:
    while True:
        for chunk in decode_chunks(_RESULT_CHUNKS, await _read(context)):
            session.calls.on_chunk(chunk)


def _chunk_frames(session: RunnerSession) -> Callable[[], bytes | None]:
    def next_frame() -> bytes | None:
        chunk = session.calls.next_chunk()
        return None if chunk is None else encode_chunk(_CALL_CHUNKS, chunk)

    return next_frame
