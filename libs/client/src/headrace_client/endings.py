"""Why a call ended, where grpc.aio forgets it.

A server may end a stream while its client writes. The write then fails, and grpc.aio replaces the status that the
server sent by "Internal error from Core", before or after it came.

Source: https://github.com/grpc/grpc/issues/36066
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
import grpc.aio

T = TypeVar("T")

_REPLACED = "Internal error from Core"
# The status of the server, where it comes second, is in this process already.
_SECOND_LOOKS = 20
_PAUSE_S = 0.005


class Ending:
    """Remembers how a `grpc.aio` call ended. To be made with the call, before anything is awaited."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._ended)

    async def real(self, error: grpc.RpcError) -> grpc.RpcError:
        """The server's status where `error` stands for it, unless that is OK, which explains nothing; else `error`."""
        if not is_replaced(error):
            return error
        if self._first is not None and not is_replaced(self._first):
            return error if _is_ok(self._first) else self._first
        for _ in range(_SECOND_LOOKS):
            await asyncio.sleep(_PAUSE_S)
            second = _status(self._call)
            if not is_replaced(second):
                return error if _is_ok(second) else second
        return error

    def _ended(self, call: Any) -> None:
        if self._first is None:
            self._first = _status(call)


def is_replaced(error: Any) -> bool:
    """Whether this is what grpc.aio says in the place of the server."""
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _REPLACED


def _is_ok(status: grpc.aio.AioRpcError) -> bool:
    return status.code() is grpc.StatusCode.OK


def _status(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        _finished(call.code()),
        grpc.aio.Metadata(),
        _finished(call.trailing_metadata()) or grpc.aio.Metadata(),
        _finished(call.details()),
    )


def _finished(answer: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for: a callback can't await."""
    try:
        answer.send(None)
    except StopIteration as returned:
        return returned.value
    answer.close()
    raise RuntimeError("the call has not ended")
