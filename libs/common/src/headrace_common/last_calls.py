"""Calls that reach a server in its last moment: they wait until clients know that it goes, then they are served.

grpc ends calls with a bare CANCELLED that it has received and the application has not yet taken when the server stops,
and those that come before a client has read the GOAWAY. A busy server has many of them: grpc.aio takes one at a time.
So the last calls are taken but not answered: callers that wait for an answer before they call again fall silent, and
in that silence the server stops.

Source: https://github.com/grpc/grpc/issues/41785
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import grpc
import grpc.aio

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Context], Coroutine[Any, Any, Any]]

_LOOK_S = 0.005
# In a row, so that a process that had no processor for a while doesn't pass for a silent one. Fewer have to do as time
# goes by: those who call without waiting for answers never fall silent, they only pause.
_QUIET_LOOKS = 10


class LastCalls(grpc.GenericRpcHandler):
    """Stands before the handlers of a server and does nothing until `silence`. Event loop only.

    Args:
        handlers: What answers the calls, asked in this order; their methods are coroutines.
        running: How many calls are being answered; those that wait here are not among them.
    """

    def __init__(self, *, handlers: Sequence[grpc.GenericRpcHandler], running: Callable[[], int]) -> None:
        self._handlers = handlers
        self._running = running
        self._stopped = asyncio.Event()
        self._holding = False
        self._taken = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Grpc's hook: None, so that the handlers are asked themselves, unless calls are held."""
        if not self._holding:
            return None
        self._taken += 1
        for handler in self._handlers:
            found = handler.service(handler_call_details)
            if found is not None:
                return found if self._stopped.is_set() else self._held(found)
        return None

    async def silence(self, within_s: float) -> None:
        """From now on new calls wait.

        Returns in a silence of 50 ms, after half of the time in one of 25 ms and so on, and after `within_s` in any
        case. While calls run there is none: each answer may have its caller call again.
        """
        self._holding = True
        quiet = 0
        # Counted in looks, not by a clock: where the process stood still, none of that time was spent on taking calls.
        looks = int(within_s / _LOOK_S)
        for look in range(looks):
            before = self._taken
            await asyncio.sleep(_LOOK_S)
            quiet = quiet + 1 if self._taken == before and not self._running() else 0
            if quiet >= _QUIET_LOOKS * (1 - look / looks):
                return

    def release(self) -> None:
        """Serves what waits: the server has told its clients to leave."""
        self._stopped.set()

    def _held(self, found: Handler) -> Handler:
        kind = f"{'stream' if found.request_streaming else 'unary'}_{'stream' if found.response_streaming else 'unary'}"
        behaviour: Behaviour = getattr(found, kind)

        async def respond(request: Any, context: Context) -> Any:
            await self._stopped.wait()
            return await behaviour(request, context)

        return getattr(grpc, f"{kind}_rpc_method_handler")(
            respond, found.request_deserializer, found.response_serializer
        )
