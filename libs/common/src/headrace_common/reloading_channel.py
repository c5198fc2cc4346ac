"""A channel whose calls are made with the present certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from headrace_common.tls import Tls
from headrace_common.tls_files import TlsMaterial

_LINGER_S = 60.0
"""How long a replaced channel is kept for calls that have no connection yet."""


class ReloadingChannel(grpc.aio.Channel):
    """Stands for one channel after the other: grpc's Python clients can't change a channel's certificate.

    A call belongs to the channel that was current when it began and ends undisturbed, a stream of days too: a channel
    that nobody holds any more closes its connection with its last call. New calls go by a new connection.

    Args:
        open_channel: Opens one with a certificate.
    """

    def __init__(self, *, tls: Tls, open_channel: Callable[[TlsMaterial], grpc.aio.Channel]) -> None:
        self._tls = tls
        self._open_channel = open_channel
        self._material = tls.material
        self._channel = open_channel(self._material)
        self._replaced: set[grpc.aio.Channel] = set()
        self._closed = False

    @property
    def current(self) -> grpc.aio.Channel:
        """The channel for calls that begin now."""
        material = self._tls.material
        if material is not self._material and not self._closed:
            self._replaced.add(self._channel)
            asyncio.get_running_loop().call_later(_LINGER_S, self._replaced.discard, self._channel)
            self._channel, self._material = self._open_channel(material), material
        return self._channel

    async def __aenter__(self) -> ReloadingChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Ends all calls but those whose channel was replaced more than a minute ago."""
        self._closed = True
        for channel in (self._channel, *self._replaced):
            await channel.close(grace)
        self._replaced.clear()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.current.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.current.channel_ready()

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._method("unary_unary", arguments, named)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._method("unary_stream", arguments, named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._method("stream_unary", arguments, named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._method("stream_stream", arguments, named)

    def _method(self, kind: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Callable[..., Any]:
        """A method that may be kept: it finds the channel at each call."""

        def call(*request: Any, **options: Any) -> Any:
            return getattr(self.current, kind)(*arguments, **named)(*request, **options)

        return call
