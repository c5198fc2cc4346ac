"""One connection to a mesh: credential, deadline and retries for every call, failures restored from the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, EncodeError, Message

from headrace_client import failures
from headrace_client.endings import Ending
from headrace_client.errors import CallCancelled, ConfigError, HeadraceError, InternalError, ValidationError
from headrace_client.inference import checked_request_id, checked_traceparent
from headrace_client.options import ClientOptions, Tls
from headrace_client.retries import Attempts, RetryBudget, RetryPolicy
from headrace_client.rpcs import Rpc
from headrace_client.status import from_rpc_error
from headrace_client.timeouts import checked_timeout_s

T = TypeVar("T")
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
Metadata = tuple[tuple[str, str | bytes], ...]

# What a mesh may pack together with the largest answer on a stream, and headers and field tags around it.
_SLACK_BYTES = (1 << 20) + (64 << 10)


class Transport:
    """Calls RPCs of one mesh. Every failure is a `HeadraceError`; cancelling a task cancels its call.

    Belongs to the event loop of its first call. The connection is made then, and made again when it breaks.

    Args:
        options: Where the mesh is and who calls.
        timeout_s: Time for calls that state none, retries included.
        retry: How often and how soon calls are tried again.
        message_bytes_max: Largest answer accepted.
    """

    def __init__(self, *, options: ClientOptions, timeout_s: float, retry: RetryPolicy, message_bytes_max: int) -> None:
        self.endpoint = options.endpoint
        self.timeout_s = checked_timeout_s(timeout_s)
        self.retry_policy = retry
        self.retry_budget = RetryBudget(tokens_max=retry.tokens_max, tokens_per_success=retry.tokens_per_success)
        self.random = Random()  # noqa: S311 -- jitter
        self._options = options
        self._message_bytes_max = message_bytes_max
        self._channel: grpc.aio.Channel | None = None
        self._closing = asyncio.Event()

    async def close(self) -> None:
        """End all calls, with `CallCancelled`, and the connection."""
        self._closing.set()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def attempts(self, deadline_s: float) -> Attempts:
        """The tries of one call that must be over at `deadline_s` by `time.monotonic()`."""
        return Attempts(policy=self.retry_policy, budget=self.retry_budget, random=self.random, deadline_s=deadline_s)

    async def unary(
        self,
        rpc: Rpc[Q, R],
        request: Q,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str = "",
        repeatable: bool = True,
    ) -> R:
        """One request, one response. Tried again only where both the method and the request are `repeatable`.

        Raises:
            HeadraceError: what the mesh answered, or that it didn't.
        """
        content = serialised(request)
        metadata = self.metadata(request_id, traceparent)

        async def attempt(left_s: float) -> R:
            method: Any = self.channel().unary_unary(rpc.path)  # pyright: ignore[reportUnknownVariableType]
            return parsed(await self.typed(method(content, timeout=left_s, metadata=metadata)), rpc.response)

        return await self._tried(attempt, timeout_s, repeatable=rpc.repeatable and repeatable)

    async def upload(
        self,
        rpc: Rpc[Q, R],
        requests: Callable[[], AsyncIterable[Q]],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str = "",
    ) -> R:
        """A stream of requests, one response; `requests` is asked for a new stream at each try.

        An exception of the stream cancels the call and reaches the caller.
        """
        metadata = self.metadata(request_id, traceparent)

        async def attempt(left_s: float) -> R:
            failed: list[BaseException] = []

            async def contents() -> AsyncIterator[bytes]:
                try:
                    async for request in requests():
                        yield serialised(request)
                except Exception as error:
                    failed.append(error)
                    raise

            method: Any = self.channel().stream_unary(rpc.path)  # pyright: ignore[reportUnknownVariableType]
            call = method(contents(), timeout=left_s, metadata=metadata)
            ending = Ending(call)
            try:
                return parsed(await self.typed(call, ending), rpc.response)
            except (HeadraceError, asyncio.CancelledError):
                if failed:
                    raise failed[0] from None
                raise

        return await self._tried(attempt, timeout_s, repeatable=rpc.repeatable)

    async def pages(self, rpc: Rpc[Q, R], request: Q) -> AsyncGenerator[R, None]:
        """The answers to a listing, page after page; both messages have the usual token fields."""
        asked: Any = type(request)()
        asked.CopyFrom(request)
        while True:
            page: Any = await self.unary(rpc, asked)
            yield page
            if not page.next_page_token:
                return
            asked.page_token = page.next_page_token

    async def responses(self, rpc: Rpc[Q, R], request: Q, *, timeout_s: float | None) -> AsyncGenerator[R, None]:
        """One request, a stream of responses. Not retried; leaving the loop cancels the call.

        Args:
            rpc: The method.
            request: Its request.
            timeout_s: Time for the whole stream; None for one that goes on until it is left.
        """
        left_s = None if timeout_s is None else checked_timeout_s(timeout_s)
        method: Any = self.channel().unary_stream(rpc.path)  # pyright: ignore[reportUnknownVariableType]
        call = method(serialised(request), timeout=left_s, metadata=self.metadata())
        try:
            while (raw := await self.typed(call.read())) is not grpc.aio.EOF:
                yield parsed(raw, rpc.response)
        finally:
            call.cancel()

    def open_stream(self, rpc: Rpc[Q, R]) -> Any:
        """A `grpc.aio.StreamStreamCall` of serialised messages, without a deadline, for somebody who runs it himself.

        Its failures are `grpc.RpcError`s, of which `restored` makes typed ones.
        """
        method: Any = self.channel().stream_stream(rpc.path)  # pyright: ignore[reportUnknownVariableType]
        return method(metadata=self.metadata())

    def restored(self, error: grpc.RpcError) -> HeadraceError:
        """The typed failure for how a call of this connection ended."""
        return from_rpc_error(error, endpoint=self.endpoint)

    def metadata(self, request_id: str | None = None, traceparent: str = "") -> Metadata:
        """Metadata of a call: who calls, the id for the logs, and the trace that it belongs to."""
        pairs: list[tuple[str, str | bytes]] = [*self._options.headers]
        if self._options.api_key is not None:
            pairs.append(("x-api-key", self._options.api_key))
        if checked_request_id(request_id):
            pairs.append(("x-request-id", request_id or ""))
        if checked_traceparent(traceparent):
            pairs.append(("traceparent", traceparent))
        return tuple(pairs)

    def channel(self) -> grpc.aio.Channel:
        """The connection, made at the first call.

        Raises:
            CallCancelled: the client is closed.
            ConfigError: a file for TLS can't be read.
        """
        if self._closing.is_set():
            raise CallCancelled("the client is closed")
        if self._channel is None:
            self._channel = _open_channel(self._options, self._message_bytes_max)
        return self._channel

    async def pause(self, pause_s: float) -> None:
        """Waits before another try.

        Raises:
            CallCancelled: the client was closed meanwhile.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._closing.wait()
            raise CallCancelled("the client was closed before the answer came")

    async def _tried(self, attempt: Callable[[float], Any], timeout_s: float | None, *, repeatable: bool) -> Any:
        deadline_s = time.monotonic() + (self.timeout_s if timeout_s is None else checked_timeout_s(timeout_s))
        attempts = self.attempts(deadline_s)
        while True:
            try:
                answer = await attempt(deadline_s - time.monotonic())
            except HeadraceError as failure:
                pause_s = attempts.pause_after(failure, now_s=time.monotonic())
                if pause_s is None or not repeatable:
                    raise
                await self.pause(pause_s)
            else:
                attempts.succeeded()
                return answer

    async def typed(self, call: Any, ending: Ending | None = None) -> Any:
        """What a call or a read of one gives, with its failure as a `HeadraceError`."""
        try:
            return await call
        except grpc.RpcError as error:
            raise self.restored(error if ending is None else await ending.real(error)) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closing.is_set() and task is not None and not task.cancelling():
                # Closing the channel cancelled the call, nobody cancelled the task.
                raise CallCancelled("the client was closed before the answer came") from None
            raise


def _open_channel(options: ClientOptions, message_bytes_max: int) -> grpc.aio.Channel:
    arguments: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", message_bytes_max + _SLACK_BYTES),
        # What is too large to send is the mesh's to say, in its own words.
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Despite its name no pause: how long one attempt may take until the server has greeted.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.primary_user_agent", "headrace-client"),
        # Clients of one process don't share a connection: closing one must not concern the others.
        ("grpc.use_local_subchannel_pool", int(options.own_connection)),
    ]
    tls = options.tls
    if tls is None:
        return grpc.aio.insecure_channel(options.endpoint, options=arguments)
    if tls.server_name is not None:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.aio.secure_channel(options.endpoint, _credentials(tls), options=arguments)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_content(tls.ca_file),
        private_key=_content(tls.key_file),
        certificate_chain=_content(tls.cert_file),
    )


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError:
        raise ConfigError(f"{path} can't be read", failures.SECRET_UNAVAILABLE) from None


def serialised(request: Message) -> bytes:
    """The bytes of a request.

    Raises:
        ValidationError: they are too many.
    """
    try:
        return request.SerializeToString()
    except (EncodeError, ValueError):
        raise ValidationError("the request has 2 GiB or more", failures.MESSAGE_TOO_LARGE) from None


def parsed(raw: bytes, response: type[R]) -> R:
    """The message that came.

    Raises:
        InternalError: it is none.
    """
    try:
        return response.FromString(raw)
    except DecodeError:
        raise InternalError("the mesh sent an answer that can't be read") from None
