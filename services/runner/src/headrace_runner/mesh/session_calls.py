"""The calls of one session: what came in, what runs, what has to be answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import structlog

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import DeadlineError, HeadraceError, RunnerError, ValidationError
from headrace_common.lanes import ByteBudget, Chunk, Inbox, LaneLimits, LaneViolation, Outbox
from headrace_common.request_id import new_request_id
from headrace_common.reused_message import ReusedMessage
from headrace_common.rpc_status import to_status
from headrace_runner.calls import Answer, Cancel, Ended, IncomingCall, Outcome
from headrace_runner.mesh.part_queue import UNSENT_BYTES_MAX, PartQueue

Begin = Callable[[IncomingCall, Ended], Cancel]


class _Open:
    """A call that came in and has no terminal result in the outbox. `cancel` is there while it runs."""

    __slots__ = ("attempt", "cancel", "deadline")

    def __init__(self, attempt: int, deadline: float) -> None:
        self.attempt = attempt
        self.deadline = deadline
        self.cancel: Cancel | None = None


class _Result(NamedTuple):
    """A terminal result beside its payload: how long an answer took, or the status of a failure."""

    attempt: int
    answer: Answer | None
    status: bytes


class SessionCalls:
    """Turns call frames into executions and executions into result frames; does no I/O itself.

    Every call id gets exactly one terminal result, after its parts. Its slot and its credit are free again only when
    that result is in the outbox. Ids rise from frame to frame, so an id at or below the highest one seen before is
    never a new call.

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
        self._inbox: Inbox[IncomingCall] = Inbox(limits=limits, budget=budget, wake=wake, aligned=True)
        self._outbox: Outbox[_Result] = Outbox(limits=limits)
        self._parts = PartQueue()
        self._open: dict[int, _Open] = {}
        self._last_id = 0
        self._frame = ReusedMessage(mesh_pb2.ResultFrame)
        self._log = structlog.stdlib.get_logger("mesh")

    @property
    def open(self) -> int:
        """Calls that came in and have no terminal result in the outbox yet."""
        return len(self._open)

    @property
    def queued(self) -> int:
        """Results that have not left yet, and calls of which parts have not."""
        return self._outbox.queued + len(self._parts)

    @property
    def in_flight(self) -> int:
        """Calls that came in and whose terminal result has not left."""
        return len(self._open) + self._outbox.queued

    @property
    def sending(self) -> bool:
        """Whether `next_chunk` has something."""
        return self._outbox.sending

    @property
    def idle(self) -> bool:
        """Whether every call was answered and every answer has left."""
        return not self._open and not self._outbox.pending

    def on_call_frame(self, frame: mesh_pb2.CallFrame) -> None:
        """Takes a frame of the small lane, which its owner may use again afterwards.

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
        now = self._clock.monotonic()
        for call in frame.calls:
            payload = call.payload
            self._inbox.message(call.id, len(payload))
            self._start(call.id, self._admit(call, before, now, payload))
        for call in frame.offers:
            incoming = self._admit(call, before, now, b"")
            if not self._inbox.offer(call.id, incoming, call.payload_bytes):
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
            incoming, payload = whole
            self._start(chunk.id, incoming._replace(payload=payload))

    def next_small_frame(self) -> bytes | None:
        """The next frame for the small lane, or None when there is nothing to send."""
        parts = self._parts.pack(self._limits.frame_bytes_max // 2)
        # No terminal result may overtake a part of its call, so they wait while parts are left.
        taken_bytes = sum(part.frame_bytes for part in parts)
        parcels = [] if self._parts else self._outbox.pack(taken_bytes=taken_bytes)
        accepts = self._inbox.accepts()
        credit = self._inbox.grant.due(only_if_needed=not (parts or parcels or accepts))
        if not (parts or parcels or accepts or credit):
            return None
        frame = self._frame.take(taken_bytes + sum(len(parcel.payload) for parcel in parcels if not parcel.offered))
        frame.accepts.extend(accepts)
        for part in parts:
            frame.results.add(
                id=part.call_id, attempt=part.attempt, payload_bytes=len(part.payload), payload=part.payload
            )
        for parcel in parcels:
            if parcel.offered:
                _write(frame.offers.add(), parcel.id, parcel.header, len(parcel.payload))
            else:
                result = frame.results.add()
                _write(result, parcel.id, parcel.header, len(parcel.payload))
                result.payload = bytes(parcel.payload)
        if credit:
            frame.credit.messages, frame.credit.payload_bytes = credit
        return frame.SerializeToString()

    def next_chunk(self) -> Chunk | None:
        """The next part of a result for the bulk lane, or None."""
        return self._outbox.next_chunk()

    def close(self) -> None:
        """Cancels what runs and gives the budget back; the gateway has lost the session's calls anyway."""
        calls, self._open = self._open, {}
        for call in calls.values():
            if call.cancel is not None:
                call.cancel()
        self._inbox.close()

    def _admit(self, call: mesh_pb2.Call, before: int, now: float, payload: bytes) -> IncomingCall:
        """Takes note of a call; inside one frame, whole calls and offers are not ordered against each other."""
        call_id = call.id
        if call_id <= before:
            raise LaneViolation("ids must rise from frame to frame")
        self._last_id = max(self._last_id, call_id)
        attempt = call.attempt
        deadline = now + call.timeout_ms / 1000
        self._open[call_id] = _Open(attempt, deadline)
        return IncomingCall(
            call.tenant_id,
            call.version_uid,
            call.request_id,
            call.traceparent,
            call.priority,
            attempt,
            deadline,
            payload,
            call.kind,
            partial(self._emit, call_id),
        )

    def _start(self, call_id: int, call: IncomingCall) -> None:
        try:
            self._open[call_id].cancel = self._begin(call, partial(self._ended, call_id))
        except Exception as error:  # noqa: BLE001 - whatever it is, only this call fails
            self._fail(call_id, error)

    def _emit(self, call_id: int, payload: bytes) -> None:
        call = self._open.get(call_id)
        if call is None:
            return
        if len(payload) > self._limits.inline_bytes_max:
            self._give_up(call_id, call, _too_large("part of an answer", len(payload), self._limits.inline_bytes_max))
        elif not self._parts.push(call_id, call.attempt, payload):
            self._give_up(call_id, call, _unread())
        else:
            self._wake()

    def _give_up(self, call_id: int, call: _Open, error: HeadraceError) -> None:
        if call.cancel is not None:
            call.cancel()
        self._parts.drop(call_id)
        self._fail(call_id, error)

    def _ended(self, call_id: int, outcome: Outcome) -> None:
        if isinstance(outcome, HeadraceError):
            self._fail(call_id, outcome)
        elif len(outcome.payload) > self._limits.message_bytes_max:
            self._fail(call_id, _too_large("answer", len(outcome.payload), self._limits.message_bytes_max))
        else:
            self._finish(call_id, outcome, b"")

    def _cancel(self, call_id: int) -> None:
        call = self._open.get(call_id)
        if call is not None:
            self._give_up(call_id, call, _cancelled())
        elif (withdrawn := self._outbox.withdraw(call_id)) is not None:
            self._parts.drop(call_id)
            self._open[call_id] = _Open(withdrawn.header.attempt, 0.0)
            self._fail(call_id, _cancelled())

    def _fail(self, call_id: int, error: BaseException) -> None:
        correlation_id = new_request_id()
        status = to_status(error, correlation_id)
        if not isinstance(error, HeadraceError):
            self._log.error("call failed", correlation_id=correlation_id, exc_info=error)
        self._finish(call_id, None, status.SerializeToString())

    def _finish(self, call_id: int, answer: Answer | None, status: bytes) -> None:
        attempt = self._open.pop(call_id).attempt
        self._inbox.done(call_id)
        self._outbox.push(call_id, _Result(attempt, answer, status), b"" if answer is None else answer.payload)
        self._wake()


def _write(result: mesh_pb2.Result, call_id: int, header: _Result, payload_bytes: int) -> None:
    result.id = call_id
    result.attempt = header.attempt
    result.terminal = True
    answer = header.answer
    if answer is None:
        result.status = header.status
    else:
        result.queue_us = answer.queue_us
        result.compute_us = answer.compute_us
        result.input_us = answer.input_us
        result.output_us = answer.output_us
        result.batch_rows = answer.rows
        result.batch_calls = answer.batch_calls
        result.leads_batch = answer.leads_batch
        result.share_us = answer.compute_us if answer.share_us is None else answer.share_us
        result.payload_bytes = payload_bytes


def _cancelled() -> HeadraceError:
    return DeadlineError("the call was cancelled", entry=catalogue.CALL_CANCELLED)


def _unread() -> HeadraceError:
    return RunnerError(
        f"more than {UNSENT_BYTES_MAX} bytes of the answer could not be sent; the call was cancelled",
        entry=catalogue.READER_TOO_SLOW,
        context={"limit": UNSENT_BYTES_MAX},
    )


def _too_large(what: str, payload_bytes: int, payload_bytes_max: int) -> HeadraceError:
    return ValidationError(
        f"the {what} has {payload_bytes} bytes; at most {payload_bytes_max} can pass this runner",
        entry=catalogue.MESSAGE_TOO_LARGE,
        context={"actual": payload_bytes, "limit": payload_bytes_max},
    )
