"""Many inferences over one packed stream, for callers who block."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Self

from numpy.typing import ArrayLike

from headrace_client.errors import CallCancelled, HeadraceError, InferenceTimeout
from headrace_client.inference import InferRequest, InferResult, ParameterValue
from headrace_client.loop_thread import LoopThread
from headrace_client.packing import Call
from headrace_client.stream import InferStream, call_for
from headrace_client.stream_engine import CallOwner
from headrace_client.tensors import Tensor

OPEN_CALLS_MAX = 2048
OPEN_BYTES_MAX = 128 << 20


class BlockingFuture(Future[InferResult]):
    """The outcome of a call to be; cancelling it cancels the call, also where it runs."""

    def __init__(self, stream: BlockingStream) -> None:
        super().__init__()
        self._stream = stream
        self.call: Call[CallOwner] | None = None

    def set_result(self, result: InferResult) -> None:
        if self._is_wanted():
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        if self._is_wanted():
            super().set_exception(exception)

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self.call is not None:
            self._stream.withdraw(self.call)
        return cancelled

    def _is_wanted(self) -> bool:
        """Takes the call's outcome; False when the call was cancelled, of which those who wait are told now."""
        if self.call is not None:
            self._stream.over(self.call)
        return self.set_running_or_notify_cancel()


class BlockingStream:
    """Runs inferences over one stream to the mesh; made by `Client.stream()`, used with `with`.

    As `InferStream`, but `submit` gives a `concurrent.futures.Future`. Calls that are submitted while others are under
    way share messages with each other, also those of different threads. At most 2,048 calls or 128 MiB are under way;
    `submit` blocks while there are as many. Any thread may use it.

    Args:
        stream: Made on the loop's thread, and used by nobody else.
        loop: Where it lives.
    """

    def __init__(self, *, stream: InferStream, loop: LoopThread) -> None:
        self._engine = stream.engine
        self._timeout_s = stream.timeout_s
        self._loop = loop
        self._room = threading.Condition()
        self._open_calls = 0
        self._open_bytes = 0
        self._closed = False
        self._handed_over: list[Call[CallOwner]] = []

    def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike | Tensor],
        *,
        version: str | int = "",
        outputs: Sequence[str] = (),
        parameters: Mapping[str, ParameterValue] | None = None,
        priority: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str = "",
    ) -> InferResult:
        """Runs one inference; the arguments are those of `InferStream.infer`.

        Raises:
            HeadraceError: The failure, typed.
        """
        self._loop.check_may_wait()
        future = self.submit(
            model,
            inputs,
            version=version,
            outputs=outputs,
            parameters=parameters,
            priority=priority,
            timeout_s=timeout_s,
            request_id=request_id,
            traceparent=traceparent,
        )
        try:
            return future.result()
        finally:
            future.cancel()  # Where an interrupt ended the wait.

    def submit(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike | Tensor],
        *,
        version: str | int = "",
        outputs: Sequence[str] = (),
        parameters: Mapping[str, ParameterValue] | None = None,
        priority: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str = "",
    ) -> Future[InferResult]:
        """Starts one inference, with the arguments of `InferStream.infer`, once there is room for it.

        Returns:
            Its outcome to be. Cancelling it cancels the inference.

        Raises:
            HeadraceError: The request can't be right, or its time was over before there was room.
        """
        request = InferRequest(
            model,
            inputs,
            version=version,
            outputs=outputs,
            parameters=parameters,
            priority=priority,
            timeout_s=timeout_s,
            request_id=request_id,
            traceparent=traceparent,
        )
        return self.submit_request(request)

    def submit_request(self, request: InferRequest, *, timeout_s: float | None = None) -> Future[InferResult]:
        """As `submit`, for a request that is there already; `timeout_s` is for one that states none."""
        future = BlockingFuture(self)
        if timeout_s is None:
            timeout_s = self._timeout_s
        call = call_for(request, owner=future, now=time.monotonic(), timeout_s=timeout_s)
        with self._room:
            if not self._may_open(call):
                self._loop.check_may_wait()
            if not self._room.wait_for(lambda: self._may_open(call), call.deadline - time.monotonic()):
                raise InferenceTimeout("the inference did not begin within its time")
            if self._closed:
                raise CallCancelled("the stream is closed")
            if not self._handed_over:
                # Before anybody can cancel one of the calls that it takes over.
                self._hand_over()
            self._open_calls += 1
            self._open_bytes += call.size
            future.call = call
            self._handed_over.append(call)
        return future

    def withdraw(self, call: Call[CallOwner]) -> None:
        """Ends a call whose future was cancelled; does nothing for a client that is closed, whose calls are over."""
        with suppress(CallCancelled):
            self._loop.call(self._withdraw, call)

    def over(self, call: Call[CallOwner]) -> None:
        """Makes room for another call."""
        with self._room:
            self._open_calls -= 1
            self._open_bytes -= call.size
            self._room.notify_all()

    def close(self) -> None:
        """Takes no new calls, waits for the outcomes of all others, then ends the stream."""
        self._refuse_new()
        if self._loop.is_running:
            self._loop.run(self._engine.close())

    def abort(self) -> None:
        """Takes no new calls, ends all others with `CallCancelled`, and the stream at once."""
        self._refuse_new()
        if self._loop.is_running:
            self._loop.run(self._engine.abort())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def _may_open(self, call: Call[CallOwner]) -> bool:
        return (
            self._closed
            or not self._open_calls
            or (self._open_calls < OPEN_CALLS_MAX and self._open_bytes + call.size <= OPEN_BYTES_MAX)
        )

    def _refuse_new(self) -> None:
        with self._room:
            self._closed = True
            self._room.notify_all()

    def _hand_over(self) -> None:
        try:
            self._loop.call(self._take_over)
        except CallCancelled:
            self._refuse_new()
            raise

    def _take_over(self) -> None:
        """Gives the engine what other threads have handed over; on the loop's thread."""
        with self._room:
            calls, self._handed_over = self._handed_over, []
        for call in calls:
            try:
                self._engine.push(call)
            except HeadraceError as error:
                call.owner.set_exception(error)

    def _withdraw(self, call: Call[CallOwner]) -> None:
        if call.place is not None:
            self._engine.withdraw(call)
            # Tells those who wait for the future that it is over.
            call.owner.set_exception(CallCancelled("cancelled"))
