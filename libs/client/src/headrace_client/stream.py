"""Many inferences over one packed stream, with asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import EncodeError
from numpy.typing import ArrayLike

from headrace_client import failures
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import StreamCall
from headrace_client.errors import ValidationError
from headrace_client.inference import (
    InferRequest,
    InferResult,
    ParameterValue,
    checked_traceparent,
    encode_request,
)
from headrace_client.packing import Call
from headrace_client.stream_engine import CallOwner, StreamEngine
from headrace_client.tensors import Tensor
from headrace_client.timeouts import checked_timeout_s
from headrace_client.transport import Transport

WAITING_CALLS_MAX = 1024
WAITING_BYTES_MAX = 64 << 20


class InferFuture(asyncio.Future[InferResult]):
    """The outcome of a call to be; cancelling it cancels the call, also where it runs."""

    __slots__ = ("_call", "_engine")

    def __init__(self, engine: StreamEngine, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._engine = engine
        self._call: Call[CallOwner] | None = None

    def belongs_to(self, call: Call[CallOwner]) -> None:
        """Says which call it is the outcome of."""
        self._call = call

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self._call is not None:
            self._engine.withdraw(self._call)
        return cancelled


class InferStream:
    """Runs inferences over one stream to the mesh; made by `AsyncClient.stream()`, used with `async with`.

    Calls that wait at the same time share a message, and so do answers: with many calls under way each costs a fraction
    of an RPC. Start many, by tasks that await `infer` or by `submit`; one call after the other gains nothing.

    The stream opens with the first call. When it breaks, another is opened, and calls without an answer are tried again
    within their time and the client's retry policy: they may run twice. Leaving the `async with` block waits for the
    outcomes of all calls; leaving it by an exception cancels them.

    One event loop only. At most 1,024 calls or 64 MiB wait here for a place on the stream; `infer` and `submit` wait
    while there are as many.

    Args:
        transport: Of the client.

    Attributes:
        engine: Carries the calls.
        timeout_s: Time for calls that state none.
    """

    def __init__(self, *, transport: Transport) -> None:
        self.timeout_s = transport.timeout_s
        self._loop = asyncio.get_running_loop()
        self.engine = StreamEngine(
            transport=transport, waiting_calls_max=WAITING_CALLS_MAX, waiting_bytes_max=WAITING_BYTES_MAX
        )

    async def infer(
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
        """Runs one inference. Cancelling the task cancels it.

        Args:
            model: Name of the model.
            inputs: Values by name of the input.
            version: Number of the version; empty or 0 means the newest that is ready.
            outputs: Names of the outputs to send back; empty means all.
            parameters: Parameters of the Open Inference Protocol.
            priority: 0 to 9, 9 is most urgent; None means 5. Orders the queues of gateways and runners.
            timeout_s: Time for the answer, waiting and tries included; None means that of the client.
            request_id: For the logs of the mesh and `InferResult.id`; the same in every try.
            traceparent: W3C trace context; empty means none.

        Raises:
            HeadraceError: The failure, typed.
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
        return await (await self.submit_request(request))

    async def submit(
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
    ) -> asyncio.Future[InferResult]:
        """Starts one inference, with the arguments of `infer`, once there is room for it.

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
        return await self.submit_request(request)

    async def submit_request(
        self, request: InferRequest, *, timeout_s: float | None = None
    ) -> asyncio.Future[InferResult]:
        """As `submit`, for a request that is there already; `timeout_s` is for one that states none."""
        future = InferFuture(self.engine, self._loop)
        if timeout_s is None:
            timeout_s = self.timeout_s
        call = call_for(request, owner=future, now=self._loop.time(), timeout_s=timeout_s)
        await self.engine.admit(call)
        future.belongs_to(call)
        return future

    async def close(self) -> None:
        """Takes no new calls, waits for the outcomes of all others, then ends the stream."""
        await self.engine.close()

    async def abort(self) -> None:
        """Takes no new calls, ends all others with `CallCancelled`, and the stream at once."""
        await self.engine.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.engine.close()
        else:
            await self.engine.abort()


def call_for(request: InferRequest, *, owner: CallOwner, now: float, timeout_s: float) -> Call[CallOwner]:
    """The call that a request makes on a stream.

    Args:
        request: What to run.
        owner: Who gets the outcome.
        now: By the event loop's clock.
        timeout_s: For a request that states none.

    Raises:
        TensorError: An input can't be sent.
        ValidationError: Another field can't be right.
    """
    timeout_s = checked_timeout_s(timeout_s if request.timeout_s is None else request.timeout_s)
    extra = b""
    traceparent = checked_traceparent(request.traceparent)
    try:
        infer = encode_request(request).SerializeToString()
        if request.request_id or traceparent:
            extra = StreamCall(request_id=request.request_id or "", traceparent=traceparent).SerializeToString()
    except (EncodeError, ValueError):
        raise ValidationError("the request has 2 GiB or more", failures.MESSAGE_TOO_LARGE) from None
    return Call(infer=infer, extra=extra, deadline=now + timeout_s, owner=owner, repeatable=request.repeatable)
