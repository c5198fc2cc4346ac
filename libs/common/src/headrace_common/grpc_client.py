"""Calling other services: long-lived channels, a deadline on every call, typed failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from headrace_common.errors import InternalError
from headrace_common.reloading_channel import ReloadingChannel
from headrace_common.rpc_status import from_rpc_error
from headrace_common.tls import Tls, channel_credentials
from headrace_common.tls_files import TlsMaterial

R = TypeVar("R", bound=Message)
MetadataPairs = Sequence[tuple[str, str | bytes]]


def client_options(*, message_bytes_max: int = 64 << 20, own_connection: bool = False) -> list[tuple[str, Any]]:
    """Our channel arguments for clients: keepalive 30 s, reconnect within 2 s, bounded messages.

    Args:
        message_bytes_max: Largest response accepted, in bytes.
        own_connection: Give the channel a TCP connection of its own; channels to one target share one otherwise.
    """
    return [
        ("grpc.max_receive_message_length", message_bytes_max + (64 << 10)),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Despite its name no pause: how long one attempt may take until the server has greeted.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1 if own_connection else 0),
    ]


def open_channel(
    target: str,
    *,
    tls: Tls | None = None,
    message_bytes_max: int = 64 << 20,
    own_connection: bool = False,
    options: Iterable[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """Opens a long-lived channel; it connects at the first call. `options` win over ours.

    With TLS each call is made with the present certificate.
    """
    ours = client_options(message_bytes_max=message_bytes_max, own_connection=own_connection)
    # Merged by name: where an argument is given twice, grpc takes the first.
    arguments = list(dict([*ours, *options]).items())
    if tls is None:
        return grpc.aio.insecure_channel(target, options=arguments)

    def secure(material: TlsMaterial) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(target, channel_credentials(material), options=arguments)

    return ReloadingChannel(tls=tls, open_channel=secure)


class Caller:
    """Calls one service's methods by path. Every failure is a `HeadraceError`; cancellation passes through.

    Args:
        channel: Stays yours: closing it is your affair.
        metadata: Gives the pairs for each call, such as a fresh principal token.
        timeout_s: Deadline of calls that state none.
    """

    def __init__(
        self,
        *,
        channel: grpc.aio.Channel,
        metadata: Callable[[], MetadataPairs] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._channel = channel
        self._metadata = metadata
        self._timeout_s = timeout_s

    async def unary(
        self,
        path: str,
        request: Message,
        response: type[R],
        *,
        timeout_s: float | None = None,
        metadata: MetadataPairs = (),
        wait_for_ready: bool = False,
    ) -> R:
        """One request, one response. `path` is `/package.Service/Method`."""
        method: Any = self._channel.unary_unary(path)  # pyright: ignore[reportUnknownVariableType]
        call = method(
            request.SerializeToString(),
            timeout=self._timeout_s if timeout_s is None else timeout_s,
            metadata=self._pairs(metadata),
            wait_for_ready=wait_for_ready,
        )
        return _parsed(await typed(call), response)

    async def upload(
        self,
        path: str,
        requests: AsyncIterable[Message],
        response: type[R],
        *,
        timeout_s: float | None = None,
        metadata: MetadataPairs = (),
    ) -> R:
        """A stream of requests, one response. An exception of `requests` cancels the call and reaches the caller."""
        failed: list[BaseException] = []

        async def encoded() -> AsyncIterator[bytes]:
            try:
                async for request in requests:
                    yield request.SerializeToString()
            except Exception as error:
                failed.append(error)
                raise

        method: Any = self._channel.stream_unary(path)  # pyright: ignore[reportUnknownVariableType]
        call = method(
            encoded(),
            timeout=self._timeout_s if timeout_s is None else timeout_s,
            metadata=self._pairs(metadata),
        )
        try:
            raw = await typed(call)
        except (Exception, asyncio.CancelledError):
            if failed:
                raise failed[0] from None
            raise
        return _parsed(raw, response)

    async def stream(
        self,
        path: str,
        request: Message,
        response: type[R],
        *,
        timeout_s: float | None = None,
        metadata: MetadataPairs = (),
    ) -> AsyncGenerator[R, None]:
        """One request, a stream of responses; no deadline unless `timeout_s` is given. Leaving the loop cancels it."""
        method: Any = self._channel.unary_stream(path)  # pyright: ignore[reportUnknownVariableType]
        call = method(request.SerializeToString(), timeout=timeout_s, metadata=self._pairs(metadata))
        try:
            async for raw in call:
                yield _parsed(raw, response)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    def _pairs(self, extra: MetadataPairs) -> tuple[tuple[str, str | bytes], ...]:
        own = self._metadata() if self._metadata is not None else ()
        return (*own, *extra)


async def typed(call: Any) -> Any:
    """Awaits a stub's call and restores the typed failure. Give the call a deadline yourself.

    Raises:
        HeadraceError: The failure that the server named, or the general one for a bare status.
    """
    try:
        return await call
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None


def _parsed(raw: bytes, response: type[R]) -> R:
    try:
        return response.FromString(raw)
    except DecodeError:
        structlog.stdlib.get_logger("grpc_client").error("undecodable response", message=response.DESCRIPTOR.full_name)
        raise InternalError("the service sent an answer that can't be read") from None
