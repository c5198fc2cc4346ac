"""A gateway's packed stream and nothing else, which a test can make pause, drain, break or misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from headrace_client.contracts.google.rpc.status_pb2 import Status
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import (
    InferResponse,
    StreamAnswer,
    StreamCall,
    StreamLimits,
    StreamRequest,
    StreamResponse,
)
from headrace_common import catalogue, rpc_status
from headrace_common.errors import DeadlineError, HeadraceError, ValidationError

STREAM = "/headrace.gateway.v1.InferenceService/Stream"


def echoed(call: StreamCall) -> InferResponse:
    """The inputs as outputs, as an identity model gives them."""
    request = call.infer.request
    answer = InferResponse()
    answer.response.model_name = request.model_name
    answer.response.id = request.id
    for tensor in request.inputs:
        answer.response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    answer.response.raw_output_contents.extend(request.raw_input_contents)
    answer.execution.runner = "runner-0"
    return answer


def status_of(error: HeadraceError) -> Status:
    """As gateways write it."""
    return Status.FromString(rpc_status.to_status(error).SerializeToString())


class ServedStream:
    """One stream as the gateway sees it.

    Attributes:
        messages: Everything that came, in order.
        calls: Those without an answer, by id.
        sent_cancels: Identifiers that were cancelled.
        half_closed: Whether the client has said that it sends no more.
        is_over: Whether the RPC has ended.
    """

    def __init__(self, limits: StreamLimits) -> None:
        self.limits = limits
        self.messages: list[StreamRequest] = []
        self.calls: dict[int, StreamCall] = {}
        self.sent_cancels: list[int] = []
        self.half_closed = False
        self.is_over = False
        self.reading = asyncio.Event()
        self.reading.set()
        self._ids: set[int] = set()
        self._answers: list[StreamAnswer] = []
        self._draining = False
        self._due = asyncio.Event()
        self._broken: HeadraceError | None = None
        self._ended = False

    @property
    def every_call(self) -> list[StreamCall]:
        """All calls that came, answered or not."""
        return [call for message in self.messages for call in message.calls]

    def answer(self, call: StreamCall) -> None:
        """Gives the call its echo."""
        self.calls.pop(call.id, None)
        self.send(StreamAnswer(id=call.id, infer=echoed(call)))

    def refuse(self, call: StreamCall, error: HeadraceError) -> None:
        """Gives the call a failure."""
        self.calls.pop(call.id, None)
        self.send(StreamAnswer(id=call.id, error=status_of(error)))

    def send(self, *answers: StreamAnswer) -> None:
        """Sends answers as they are, right or wrong."""
        self._answers.extend(answers)
        self._due.set()

    def drain(self) -> None:
        """Says so; the stream goes on."""
        self._draining = True
        self._due.set()

    def end(self, error: HeadraceError | None = None) -> None:
        """Ends the stream at once, with OK or a failure, after what was sent before."""
        self._broken, self._ended = error, True
        self._due.set()

    def take(self, message: StreamRequest, respond: Callable[[ServedStream, StreamCall], None]) -> None:
        """Takes a message; ends the stream when it is more than the limits allow."""
        self.messages.append(message)
        for call in message.calls:
            if call.id in self._ids:
                self.end(ValidationError("the identifier is in use"))
            self._ids.add(call.id)
            self.calls[call.id] = call
        if len(message.calls) > self.limits.calls_per_message_max or len(self.calls) > self.limits.calls_max:
            self.end(ValidationError("more calls than allowed"))
        for call in message.calls:
            respond(self, call)
        for call_id in message.cancels:
            self.sent_cancels.append(call_id)
            call = self.calls.get(call_id)
            if call is not None:
                self.refuse(call, DeadlineError("cancelled", entry=catalogue.CALL_CANCELLED))

    async def write(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Sends what is due until the stream ends."""
        await context.write(StreamResponse(limits=self.limits).SerializeToString())
        while True:
            if self._answers or self._draining:
                message = StreamResponse(answers=self._answers, draining=self._draining)
                self._answers, self._draining = [], False
                await context.write(message.SerializeToString())
            elif self._broken is not None:
                await rpc_status.abort(context, self._broken)
            elif self._ended or (self.half_closed and not self.calls):
                return
            else:
                self._due.clear()
                await self._due.wait()

    async def read(self, requests: AsyncIterator[bytes], respond: Callable[[ServedStream, StreamCall], None]) -> None:
        """Takes messages until the client half-closes."""
        async for message in requests:
            await self.reading.wait()
            self.take(StreamRequest.FromString(message), respond)
        self.half_closed = True
        self._due.set()


class StreamGateway:
    """Serves the packed stream.

    Attributes:
        address: Where.
        streams: Every stream that was opened, in order.
        respond: What is done with a call; answers it at once unless a test says otherwise.
        refusal: When set, streams are refused with it.
        greeting: When set, streams begin with these bytes and end.
        metadata: What the last stream was opened with.
    """

    def __init__(self, limits: StreamLimits) -> None:
        self.address = ""
        self.streams: list[ServedStream] = []
        self.respond: Callable[[ServedStream, StreamCall], None] = ServedStream.answer
        self.refusal: HeadraceError | None = None
        self.greeting: bytes | None = None
        self.refused = 0
        self.metadata: dict[str, str | bytes] = {}
        self.limits = limits
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])

    async def kill(self) -> None:
        """Ends all connections at once."""
        await self.server.stop(0)

    @property
    def every_call(self) -> list[StreamCall]:
        """All calls that came on all streams."""
        return [call for stream in self.streams for call in stream.every_call]

    async def serve(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One stream from its start to its end."""
        self.metadata = dict(context.invocation_metadata() or ())
        if self.refusal is not None:
            self.refused += 1
            await rpc_status.abort(context, self.refusal)
        if self.greeting is not None:
            await context.write(self.greeting)
            return
        stream = ServedStream(self.limits)
        self.streams.append(stream)
        reader = asyncio.create_task(stream.read(requests, self._respond))
        try:
            await stream.write(context)
        finally:
            stream.is_over = True
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _respond(self, stream: ServedStream, call: StreamCall) -> None:
        self.respond(stream, call)


def limits_of(
    *,
    calls_max: int = 1024,
    bytes_max: int = 64 << 20,
    calls_per_message_max: int = 1024,
    message_bytes_max: int = 64 << 20,
) -> StreamLimits:
    """What the real gateway tells, with changes."""
    return StreamLimits(
        calls_max=calls_max,
        bytes_max=bytes_max,
        calls_per_message_max=calls_per_message_max,
        message_bytes_max=message_bytes_max,
    )


@asynccontextmanager
async def serving(limits: StreamLimits | None = None, *, address: str = "127.0.0.1:0") -> AsyncGenerator[StreamGateway]:
    """A stream gateway, stopped at once afterwards."""
    gateway = StreamGateway(limits or limits_of())
    server = gateway.server
    handler: Any = grpc.stream_stream_rpc_method_handler(gateway.serve)  # pyright: ignore[reportUnknownVariableType]
    service, method = STREAM.removeprefix("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port(address)
    gateway.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield gateway
    finally:
        await gateway.kill()
