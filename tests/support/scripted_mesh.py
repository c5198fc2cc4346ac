"""A gRPC server that answers as a test says, for what a real mesh does only when it is in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from headrace_common.errors import HeadraceError
from headrace_common.rpc_status import abort

Context = grpc.aio.ServicerContext[Any, Any]
Unary = Callable[[bytes], Awaitable[bytes]]
Upload = Callable[[AsyncIterator[bytes]], Awaitable[bytes]]
Responses = Callable[[bytes], AsyncIterator[bytes]]


@dataclass(frozen=True, kw_only=True)
class SeenCall:
    """One call as it arrived."""

    path: str
    metadata: Mapping[str, str | bytes]
    left_s: float | None


class ScriptedMesh(grpc.GenericRpcHandler):
    """Answers by path; what a function raises as a HeadraceError is answered as a mesh would.

    Attributes:
        calls: What arrived, in order.
        cancelled: Counts calls that the client cancelled, or whose connection broke.
    """

    def __init__(
        self,
        *,
        unary: Mapping[str, Unary] | None = None,
        uploads: Mapping[str, Upload] | None = None,
        responses: Mapping[str, Responses] | None = None,
    ) -> None:
        self.calls: list[SeenCall] = []
        self.cancelled = 0
        self._unary = unary or {}
        self._uploads = uploads or {}
        self._responses = responses or {}

    def service(self, handler_call_details: Any) -> Any:
        path: str = handler_call_details.method
        metadata = dict(handler_call_details.invocation_metadata)
        if path in self._unary:
            return _Handler(self._answering(path, metadata, self._unary[path]), kind="unary_unary")
        if path in self._uploads:
            return _Handler(self._answering(path, metadata, self._uploads[path]), kind="stream_unary")
        if path in self._responses:
            return _Handler(self._streaming(path, metadata, self._responses[path]), kind="unary_stream")
        return None

    def _answering(self, path: str, metadata: dict[str, str | bytes], answer: Callable[[Any], Awaitable[bytes]]) -> Any:
        async def answering(request: Any, context: Context) -> bytes:
            self.calls.append(SeenCall(path=path, metadata=metadata, left_s=context.time_remaining()))
            try:
                return await answer(request)
            except HeadraceError as failure:
                return await abort(context, failure)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        return answering

    def _streaming(self, path: str, metadata: dict[str, str | bytes], answer: Responses) -> Any:
        async def streaming(request: bytes, context: Context) -> AsyncIterator[bytes]:
            self.calls.append(SeenCall(path=path, metadata=metadata, left_s=context.time_remaining()))
            try:
                async for message in answer(request):
                    yield message
            except HeadraceError as failure:
                await abort(context, failure)
            except (asyncio.CancelledError, GeneratorExit):
                self.cancelled += 1
                raise

        return streaming


class _Handler:
    """A method handler that takes and gives bytes as they are; grpc asks for these attributes only."""

    def __init__(self, behaviour: Any, *, kind: str) -> None:
        self.request_streaming = kind.startswith("stream_")
        self.response_streaming = kind.endswith("_stream")
        self.request_deserializer = None
        self.response_serializer = None
        for name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            setattr(self, name, behaviour if name == kind else None)


@asynccontextmanager
async def serving(
    mesh: ScriptedMesh, *, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> AsyncGenerator[str]:
    """The address at which it answers."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((mesh,))
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
