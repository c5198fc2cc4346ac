"""The calls that one runner session has open, and the lanes that carry them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.errors import HeadraceError
from headrace_common.lanes import ByteBudget, Chunk, Inbox, LaneLimits, LaneViolation, Outbox
from headrace_common.reused_message import ReusedMessage
from headrace_common.rpc_status import from_status_bytes
from headrace_gateway.mesh.runner_work import RunnerWork


class Answer(NamedTuple):
    """A runner's answer: a serialised message that answers the call's, and where the time went, in microseconds.

    Attributes:
        payload: Of an answer in parts the last one.
        compute_us: The execution; in `input_us` and `output_us` of it tensors were read and written.
        batch_rows: Rows of the execution, over all calls that it answered; these are `batch_calls`, at least 1.
        leads_batch: Whether this answer stands for the execution; exactly one of its answers does.
        share_us: The call's part of `compute_us`: those of an execution's calls add up to it.
    """

    payload: bytes
    queue_us: int
    compute_us: int
    input_us: int
    output_us: int
    batch_rows: int
    leads_batch: bool
    batch_calls: int = 1
    share_us: int = 0


class Call(Protocol):
    """A call as a session sees it.

    Attributes:
        payload: A serialised message, of the kind that the call has.
        attempt: How often it was sent to some runner before.
        places: How many of the version's slots it takes.
    """

    payload: bytes
    attempt: int
    places: int

    @property
    def streams(self) -> bool:
        """Whether its answer may come in parts."""
        ...

    @property
    def version_uid(self) -> str:
        """The version that it is for."""
        ...

    def describe(self, into: mesh_pb2.Call) -> None:
        """Writes the call's fields but for its id, attempt and payload."""
        ...

    def part(self, payload: bytes) -> None:
        """Told a part of the answer, before the last one. To be told only while it `streams`; may make it `leave`.

        Raises:
            LaneViolation: It is none.
        """
        ...

    def answered(self, outcome: Answer | HeadraceError) -> None:
        """Told once, on the event loop, how the call ended here, unless the caller leaves first."""
        ...


class _Left(NamedTuple):
    """A call that nobody waits for any more and that the runner has yet to end."""

    attempt: int
    version_uid: str
    streams: bool
    places: int


class SessionCalls:
    """Opens calls, and closes each with the runner's one terminal answer; does no I/O itself.

    A call that nobody waits for any more stays open until its terminal answer, so that its slot is never counted as
    free while the runner still works on it. Parts of answers take no credit, so whoever gets them must bound what it
    keeps. One event loop.

    Args:
        limits: Sizes of the lanes.
        budget: Room for large results, shared by all sessions of the gateway.
        work: Counts the calls that are open.
        wake: Called whenever there may be a frame to send.
        gather_s: How long results may wait for company, told with each frame.
        ended: Called after each terminal answer.
    """

    def __init__(
        self,
        *,
        limits: LaneLimits,
        budget: ByteBudget,
        work: RunnerWork,
        wake: Callable[[], None],
        ended: Callable[[], None],
        gather_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._limits = limits
        self._work = work
        self._wake = wake
        self._gather_s = gather_s
        self._ended = ended
        self._outbox: Outbox[Call] = Outbox(limits=limits)
        self._inbox: Inbox[mesh_pb2.Result] = Inbox(limits=limits, budget=budget, wake=wake)
        self._open: dict[int, Call] = {}
        self._left: dict[int, _Left] = {}
        self._cancels: list[int] = []
        self._last_id = 0
        self._frame = ReusedMessage(mesh_pb2.CallFrame)

    @property
    def in_flight(self) -> int:
        """Calls without a terminal answer."""
        return len(self._open) + len(self._left)

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

    def send(self, call: Call) -> int:
        """Opens a call and returns its id here. The caller has asked `has_room`. Tells nothing before this returns."""
        self._last_id += 1
        self._open[self._last_id] = call
        self._work.began(call.version_uid, call.places)
        self._outbox.push(self._last_id, call, call.payload)
        self._wake()
        return self._last_id

    def leave(self, call_id: int) -> None:
        """The caller stops waiting; does nothing when the call has had its answer.

        A call that has not left yet is taken back, another one is cancelled on the runner.
        """
        call = self._open.pop(call_id, None)
        if call is None:
            return
        withdrawn = self._outbox.withdraw(call_id)
        if withdrawn is not None and withdrawn.unseen:
            self._work.ended(call.version_uid, call.places)
            self._ended()
            return
        self._left[call_id] = _Left(call.attempt, call.version_uid, call.streams, call.places)
        self._cancels.append(call_id)
        self._wake()

    def fail_all(self, error: HeadraceError) -> None:
        """Fails every waiting caller and cancels their calls, which stay in flight until their terminal answers."""
        for call_id, call in list(self._open.items()):
            # What a caller does next may end others of these calls.
            if call_id in self._open:
                self.leave(call_id)
                call.answered(error)

    def close(self, error: HeadraceError) -> None:
        """The session is lost: fails every waiting caller and forgets the calls."""
        failed, self._open = list(self._open.values()), {}
        for ended in (*failed, *self._left.values()):
            self._work.ended(ended.version_uid, ended.places)
        self._left.clear()
        self._inbox.close()
        for call in failed:
            call.answered(error)
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
            if not result.terminal:
                self._pass_on(result)
                continue
            self._inbox.done(result.id)
            self._inbox.message(result.id, len(result.payload))
            self._finish(result, result.payload)
        for result in frame.offers:
            self._check(result)
            if not result.terminal:
                raise LaneViolation("a part of a result was offered")
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
            result, payload = whole
            self._finish(result, bytes(payload))
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
            call.id = parcel.id
            call.attempt = parcel.header.attempt
            call.payload_bytes = len(parcel.payload)
            parcel.header.describe(call)
            if not parcel.offered:
                call.payload = bytes(parcel.payload)
        if credit:
            frame.credit.messages, frame.credit.payload_bytes = credit
        return frame.SerializeToString()

    def next_chunk(self) -> Chunk | None:
        """The next part of a call for the bulk lane, or None."""
        return self._outbox.next_chunk()

    def _check(self, result: mesh_pb2.Result) -> None:
        call = self._open.get(result.id) or self._left.get(result.id)
        if call is None:
            raise LaneViolation("result for a call that is not open")
        if call.attempt != result.attempt or not (result.terminal or call.streams):
            raise LaneViolation("result does not belong to the call")

    def _pass_on(self, part: mesh_pb2.Result) -> None:
        if part.status or len(part.payload) > self._limits.inline_bytes_max or self._inbox.holds(part.id):
            raise LaneViolation("a part of a result that fails, is too large, or comes after the end")
        call = self._open.get(part.id)
        if call is not None:
            call.part(part.payload)

    def _finish(self, result: mesh_pb2.Result, payload: bytes) -> None:
        call_id = result.id
        self._inbox.done(call_id)
        self._outbox.answered(call_id)
        call = self._open.pop(call_id, None)
        if call is None:
            left = self._left.pop(call_id)
            self._work.ended(left.version_uid, left.places)
        else:
            self._work.ended(call.version_uid, call.places)
            call.answered(from_status_bytes(result.status) if result.status else _answer(result, payload))
        self._ended()


def _answer(result: mesh_pb2.Result, payload: bytes) -> Answer:
    batch_calls = max(1, result.batch_calls)
    return Answer(
        payload,
        result.queue_us,
        result.compute_us,
        result.input_us,
        result.output_us,
        result.batch_rows,
        result.leads_batch,
        batch_calls,
        result.share_us if result.HasField("share_us") else result.compute_us // batch_calls,
    )
