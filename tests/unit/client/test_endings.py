"""How a call ended, though grpc.aio may put a status of its own in the place of the server's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from headrace_client.endings import Ending

REFUSED = (grpc.StatusCode.ALREADY_EXISTS, "other bytes")
REPLACED = (grpc.StatusCode.INTERNAL, "Internal error from Core")
BROKEN = (grpc.StatusCode.INTERNAL, "of the server's own")


class EndedCall:
    """The part of a `grpc.aio` call that tells how it ended; its status changes behind the caller's back."""

    def __init__(self) -> None:
        self.status = REFUSED
        self.later: list[tuple[grpc.StatusCode, str]] = []
        self._callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def end(self, status: tuple[grpc.StatusCode, str]) -> grpc.aio.AioRpcError:
        self.status = status
        for callback in self._callbacks:
            callback(self)
        return grpc.aio.AioRpcError(status[0], grpc.aio.Metadata(), grpc.aio.Metadata(), status[1])

    async def code(self) -> grpc.StatusCode:
        if self.later:
            self.status = self.later.pop(0)
        return self.status[0]

    async def details(self) -> str:
        return self.status[1]

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(("status", self.status[1]))


def told(error: Any) -> tuple[grpc.StatusCode, str]:
    return error.code(), error.details()


async def test_a_status_that_was_replaced_afterwards_is_remembered_with_its_metadata() -> None:
    call = EndedCall()
    ending = Ending(call)
    call.end(REFUSED)
    real: Any = await ending.real(call.end(REPLACED))
    assert told(real) == REFUSED
    assert dict(real.trailing_metadata()) == {"status": "other bytes"}


async def test_a_status_that_comes_after_its_replacement_is_waited_for() -> None:
    call = EndedCall()
    ending = Ending(call)
    replaced = call.end(REPLACED)
    call.later = [REPLACED, REFUSED]
    assert told(await ending.real(replaced)) == REFUSED


async def test_a_replacement_without_the_real_one_stays() -> None:
    call = EndedCall()
    ending = Ending(call)
    assert told(await ending.real(call.end(REPLACED))) == REPLACED


@pytest.mark.parametrize("status", [REFUSED, BROKEN], ids=["refused", "broken"])
async def test_what_the_server_says_is_taken_as_it_is(status: tuple[grpc.StatusCode, str]) -> None:
    call = EndedCall()
    ending = Ending(call)
    error = call.end(status)
    assert await ending.real(error) is error
