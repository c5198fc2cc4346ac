"""The calls that one runner session has open, and the lanes that carry them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.errors import HeadraceError
from headrace_common.lanes import ByteBudget, Chunk, Inbox, LaneLimits, LaneViolation, Outbox
from headrace_common.reused_message import ReusedMessage
from headrace_common.rpc_status import from_status_bytes


class Answer(NamedTuple):
    """A runner's answer: a serialised ModelInferResponse, and where the time went, in microseconds.

    Attributes:
        compute_us: The execution; in `input_us` and `output_us` of it tensors were read and written.
        batch_rows: Rows of the execution, over all calls that it answered.
        leads_batch: Whether this answer stands for the execution; exactly one of its answers does.
    """

    payload: bytes
    queue_us: int
    compute_us: int
    input_us: int
    output_us: int
    batch_rows: int
    leads_batch: bool


class CallHeader(NamedTuple):
    """What a call says of itself beside its payload; the fields of `headrace.runner.internal.v1.Call`."""

    tenant_id: str
    version_uid: str
    timeout_ms: int
    attempt: int = 0
    priority: int = 0
    request_id: str = ""
    traceparent: str = ""


Ended = Callable[[Answer | HeadraceError], None]
"""Told once, on the event loop, how a call ended."""


class OpenCall:
    """A call on its way. `ended` is called once, with the answer or the failure, unless the caller leaves first."""

    __slots__ = ("attempt", "ended", "id")

    def __init__(self, call_id: int, attempt: int, ended: Ended) -> None:
        self.id = call_id
        self.attempt = attempt
        self.ended: Ended | None = ended

    def end(self, outcome: Answer | HeadraceError) -> None:
        """Tells the caller, if it has neither been told nor left."""
        ended, self.ended = self.ended, None
        if ended is not None:
            ended(outcome)


class SessionCalls:
    """Opens calls, and closes each with the runner's one terminal answer; does no I/O itself.

    A call that nobody waits for any more stays open until its terminal answer, so that its slot is never counted as
    free while the runner still works on it. One event loop.

    Args:
        limits: Sizes of the lanes.
        budget: Room for large results, shared by all sessions of the gateway.
        wake: Called whenever there may be a frame to send.
        gather_s: How long results may wait for company, told with each frame.
        ended: Called after each terminal answer.
    """

    def __init__(
        self,
        *,
        limits: LaneLimits,
        budget: ByteBudget,
        wake: Callable[[], None],
        ended: Callable[[], None],
        gather_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._wake = wake
        self._gather_s = gather_s
        self._ended = ended
        self._outbox: Outbox[CallHeader] = Outbox(limits=limits)
        self._inbox: Inbox[mesh_pb2.Result] = Inbox(limits=limits, budget=budget, wake=wake)
        self._open: dict[int, OpenCall] = {}
        self._cancels: list[int] = []
        self._last_id = 0
        self._frame = ReusedMessage(mesh_pb2.CallFrame)

    @property
    def in_flight(self) -> int:
        """Calls without a terminal answer."""
        return len(self._open)

    @property
    def queued(self) -> int:
        """Calls that have not left yet."""
        return self._outbox.queued

    @property
    def sending(self) -> bool:
        """Whether `next_chunk` has something."""
        return self._outbox.sending

    @property
    def credit_left(self) -> int:
        """Calls that the runner would still take."""
        return self._outbox.credit.messages_left

    def has_room(self, payload_bytes: int) -> bool:
        """Whether the runner has granted credit for one more call of that size."""
        return self._outbox.has_room(payload_bytes)

    def send(self, header: CallHeader, payload: bytes, ended: Ended) -> OpenCall:
        """Opens a call. The caller has asked `has_room`. `ended` is never called before this returns."""
        self._last_id += 1
        opened = OpenCall(self._last_id, header.attempt, ended)
        self._open[opened.id] = opened
        self._outbox.push(opened.id, header, payload)
        self._wake()
        return opened

    def leave(self, call: OpenCall) -> None:
        """The caller stops waiting; does nothing when the call has had its answer.

        A call that has not left yet is taken back, another one is cancelled on the runner.
        """
        call.ended = None
        if call.id not in self._open:
            return
        withdrawn = self._outbox.withdraw(call.id)
        if withdrawn is not None and withdrawn.unseen:
            del self._open[call.id]
            self._ended()
            return
        self._cancels.append(call.id)
        self._wake()

    def fail_all(self, error: HeadraceError) -> None:
        """Fails every waiting caller; the calls stay open until their terminal answers, or `close`."""
        for call in list(self._open.values()):
            call.end(error)

    def close(self, error: HeadraceError) -> None:
        """The session is lost: fails every waiting caller and forgets the calls."""
        failed, self._open = list(self._open.values()), {}
        self._inbox.close()
        for call in failed:
            call.end(error)
        self._ended()

    def on_result_frame(self, frame: mesh_pb2.ResultFrame) -> None:
        """Takes a frame of the small lane.

        Raises:
            LaneViolation: The runner broke the protocol, for example by answering a call that it does not have.
        """
        if frame.chunks:
            raise LaneViolation("the small lane carries no chunks")
        if frame.HasField("credit"):
            self._outbox.credit.grant(frame.credit.messages, frame.credit.payload_bytes)
        for call_id in frame.accepts:
            self._outbox.accepted(call_id)
        for result in frame.results:
            self._check(result)
            self._inbox.done(result.id)
            self._inbox.message(result.id, len(result.payload))
            self._finish(result, result.payload)
        for result in frame.offers:
            self._check(result)
            # Outlives the frame, which its owner may use again.
            kept = mesh_pb2.Result()
            kept.CopyFrom(result)
            self._inbox.offer(result.id, kept, result.payload_bytes)
        self._wake()

    def on_chunk(self, chunk: Chunk) -> None:
        """Takes a chunk of the bulk lane.

        Raises:
            LaneViolation: The runner broke the protocol.
        """
        whole = self._inbox.chunk(chunk)
        if whole is not None:
            self._finish(*whole)
            self._wake()

    def next_small_frame(self) -> bytes | None:
        """The next frame for the small lane, or None when there is nothing to send."""
        parcels = self._outbox.pack()
        accepts = self._inbox.accepts()
        cancels, self._cancels = self._cancels, []
        credit = self._inbox.grant.due(only_if_needed=not (parcels or accepts or cancels))
        if not (parcels or accepts or cancels or credit):
            return None
        frame = self._frame.take(sum(len(parcel.payload) for parcel in parcels if not parcel.offered))
        frame.accepts.extend(accepts)
        frame.cancels.extend(cancels)
        frame.gather_us = int(self._gather_s() * 1e6)
        for parcel in parcels:
            call = frame.offers.add() if parcel.offered else frame.calls.add()
            _write(call, parcel.id, parcel.header, len(parcel.payload))
            if not parcel.offered:
                call.payload = bytes(parcel.payload)
        if credit:
            frame.credit.messages, frame.credit.payload_bytes = credit
        return frame.SerializeToString()

    def next_chunk(self) -> Chunk | None:
        """The next part of a call for the bulk lane, or None."""
        return self._outbox.next_chunk()

    def _check(self, result: mesh_pb2.Result) -> None:
        call = self._open.get(result.id)
        if call is None:
            raise LaneViolation("result for a call that is not open")
        if call.attempt != result.attempt or not result.terminal:
            raise LaneViolation("result does not belong to the call")

    def _finish(self, result: mesh_pb2.Result, payload: bytes) -> None:
        call = self._open.pop(result.id)
        self._inbox.done(result.id)
        self._outbox.answered(result.id)
        if call.ended is not None:
            call.end(from_status_bytes(result.status) if result.status else _answer(result, payload))
        self._ended()


def _answer(result: mesh_pb2.Result, payload: bytes) -> Answer:
    return Answer(
        payload,
        result.queue_us,
        result.compute_us,
        result.input_us,
        result.output_us,
        result.batch_rows,
        result.leads_batch,
    )


def _write(call: mesh_pb2.Call, call_id: int, header: CallHeader, payload_bytes: int) -> None:
    call.id = call_id
    call.attempt = header.attempt
    call.kind = mesh_pb2.CALL_KIND_INFER
    call.tenant_id = header.tenant_id
    call.version_uid = header.version_uid
    call.timeout_ms = header.timeout_ms
    call.priority = header.priority
    call.request_id = header.request_id
    call.traceparent = header.traceparent
    call.payload_bytes = payload_bytes
