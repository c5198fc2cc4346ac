"""The calls of one session: what came in, what runs, what has to be answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import DeadlineError, HeadraceError, ValidationError
from headrace_common.lanes import ByteBudget, Chunk, Inbox, LaneLimits, LaneViolation, Outbox
from headrace_common.request_id import new_request_id
from headrace_common.rpc_status import to_status
from headrace_runner.calls import Cancel, Ended, IncomingCall, Outcome

Begin = Callable[[IncomingCall, Ended], Cancel]


class SessionCalls:
    """Turns call frames into executions and executions into result frames; does no I/O itself.

    Every call id gets exactly one terminal result. Its slot and its credit are free again only when that result is in
    the outbox. Ids rise from frame to frame, so an id at or below the highest one seen before is never a new call.

    Args:
        begin: Takes one call; what it returns is called when the gateway cancels the call.
        limits: Sizes of the lanes.
        budget: Room for large calls, shared by all sessions of the runner.
        wake: Called whenever there may be a frame to send.
    """

    def __init__(
        self, *, begin: Begin, limits: LaneLimits, budget: ByteBudget, clock: Clock, wake: Callable[[], None]
    ) -> None:
        self._begin = begin
        self._limits = limits
        self._budget_bytes = budget.total_bytes
        self._clock = clock
        self._wake = wake
        self._inbox: Inbox[mesh_pb2.Call] = Inbox(limits=limits, budget=budget, wake=wake)
        self._outbox: Outbox[mesh_pb2.Result] = Outbox(limits=limits)
        self._attempts: dict[int, int] = {}
        self._deadlines: dict[int, float] = {}
        self._running: dict[int, Cancel] = {}
        self._last_id = 0
        self._log = structlog.stdlib.get_logger("mesh")

    @property
    def open(self) -> int:
        """Calls that came in and have no terminal result in the outbox yet."""
        return len(self._attempts)

    @property
    def queued(self) -> int:
        """Results that have not left yet."""
        return self._outbox.queued

    @property
    def idle(self) -> bool:
        """Whether every call was answered and every answer has left."""
        return not self._attempts and not self._outbox.pending

    def on_call_frame(self, frame: mesh_pb2.CallFrame) -> None:
        """Takes a frame of the small lane.

        Raises:
            LaneViolation: The gateway broke the protocol.
        """
        if frame.chunks:
            raise LaneViolation("the small lane carries no chunks")
        if frame.HasField("credit"):
            self._outbox.credit.grant(frame.credit.messages, frame.credit.payload_bytes)
        for call_id in frame.accepts:
            self._outbox.accepted(call_id)
        before = self._last_id
        for call in frame.calls:
            self._inbox.message(call.id, len(call.payload))
            self._admit(call, before)
            self._start(call, call.payload)
        for call in frame.offers:
            fits = self._inbox.offer(call.id, call, call.payload_bytes)
            self._admit(call, before)
            if not fits:
                self._fail(call.id, _too_large("request", call.payload_bytes, self._budget_bytes))
        for call_id in frame.cancels:
            self._cancel(call_id)
        self._wake()

    def on_chunk(self, chunk: Chunk) -> None:
        """Takes a chunk of the bulk lane.

        Raises:
            LaneViolation: The gateway broke the protocol.
        """
        whole = self._inbox.chunk(chunk)
        if whole is not None:
            self._start(*whole)

    def next_small_frame(self) -> bytes | None:
        """The next frame for the small lane, or None when there is nothing to send."""
        parcels = self._outbox.pack()
        accepts = self._inbox.accepts()
        credit = self._inbox.grant.due(only_if_needed=not (parcels or accepts))
        if not (parcels or accepts or credit):
            return None
        frame = mesh_pb2.ResultFrame(accepts=accepts)
        for parcel in parcels:
            if parcel.offered:
                frame.offers.append(parcel.header)
            else:
                parcel.header.payload = bytes(parcel.payload)
                frame.results.append(parcel.header)
        if credit:
            frame.credit.messages, frame.credit.payload_bytes = credit
        return frame.SerializeToString()

    def next_chunk(self) -> Chunk | None:
        """The next part of a result for the bulk lane, or None."""
        return self._outbox.next_chunk()

    def close(self) -> None:
        """Cancels what runs and gives the budget back; the gateway has lost the session's calls anyway."""
        running, self._running = self._running, {}
        for cancel in running.values():
            cancel()
        self._inbox.close()
        self._attempts.clear()
        self._deadlines.clear()

    def _admit(self, call: mesh_pb2.Call, before: int) -> None:
        """Takes note of a call; inside one frame, whole calls and offers are not ordered against each other."""
        if call.id <= before:
            raise LaneViolation("ids must rise from frame to frame")
        self._last_id = max(self._last_id, call.id)
        self._attempts[call.id] = call.attempt
        self._deadlines[call.id] = self._clock.monotonic() + call.timeout_ms / 1000

    def _start(self, call: mesh_pb2.Call, payload: bytes) -> None:
        call_id = call.id
        incoming = IncomingCall(
            call.tenant_id,
            call.version_uid,
            call.request_id,
            call.traceparent,
            call.priority,
            call.attempt,
            self._deadlines[call_id],
            payload,
        )
        try:
            self._running[call_id] = self._begin(incoming, partial(self._ended, call_id))
        except Exception as error:  # noqa: BLE001 - whatever it is, only this call fails
            self._fail(call_id, error)

    def _ended(self, call_id: int, outcome: Outcome) -> None:
        if self._running.pop(call_id, None) is None:
            return
        if isinstance(outcome, HeadraceError):
            self._fail(call_id, outcome)
        elif len(outcome.payload) > self._limits.message_bytes_max:
            self._fail(call_id, _too_large("answer", len(outcome.payload), self._limits.message_bytes_max))
        else:
            header = mesh_pb2.Result(
                queue_us=outcome.queue_us,
                compute_us=outcome.compute_us,
                input_us=outcome.input_us,
                output_us=outcome.output_us,
                batch_rows=outcome.rows,
                leads_batch=True,
                payload_bytes=len(outcome.payload),
            )
            self._finish(call_id, header, outcome.payload)

    def _cancel(self, call_id: int) -> None:
        cancel = self._running.pop(call_id, None)
        if cancel is not None:
            cancel()
            self._fail(call_id, _cancelled())
        elif call_id in self._attempts:
            self._fail(call_id, _cancelled())
        elif (withdrawn := self._outbox.withdraw(call_id)) is not None:
            self._attempts[call_id] = withdrawn.header.attempt
            self._fail(call_id, _cancelled())

    def _fail(self, call_id: int, error: BaseException) -> None:
        correlation_id = new_request_id()
        status = to_status(error, correlation_id)
        if not isinstance(error, HeadraceError):
            self._log.error("call failed", correlation_id=correlation_id, exc_info=error)
        self._finish(call_id, mesh_pb2.Result(status=status.SerializeToString()), b"")

    def _finish(self, call_id: int, header: mesh_pb2.Result, payload: bytes) -> None:
        header.id = call_id
        header.attempt = self._attempts.pop(call_id)
        header.terminal = True
        self._deadlines.pop(call_id, None)
        self._inbox.done(call_id)
        self._outbox.push(call_id, header, payload)
        self._wake()


def _cancelled() -> HeadraceError:
    return DeadlineError("the call was cancelled", entry=catalogue.CALL_CANCELLED)


def _too_large(what: str, payload_bytes: int, payload_bytes_max: int) -> HeadraceError:
    return ValidationError(
        f"the {what} has {payload_bytes} bytes; at most {payload_bytes_max} can pass this runner",
        entry=catalogue.MESSAGE_TOO_LARGE,
        context={"bytes": payload_bytes, "limit": payload_bytes_max},
    )
