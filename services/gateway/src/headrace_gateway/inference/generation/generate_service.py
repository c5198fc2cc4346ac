"""`InferenceService.Generate`: a stream of messages for one request."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from headrace_common.errors import HeadraceError
from headrace_gateway.inference import tenant_streams
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.generation.answer_parts import UNREAD_BYTES_MAX
from headrace_gateway.inference.generation.unread_parts import UnreadParts
from headrace_gateway.inference.handler import InferenceHandler
from headrace_gateway.inference.message_bounds import read_too_late, reader_too_slow
from headrace_gateway.inference.payload_gate import PayloadGate

Context = grpc.aio.ServicerContext[Any, Any]


class GenerateService:
    """Writes what runners generate, as it comes. Event loop only.

    Args:
        payloads: Counts the bytes of requests, which grpc holds for as long as their RPC.
    """

    def __init__(self, *, inference: InferenceHandler, payloads: PayloadGate) -> None:
        self._inference = inference
        self._payloads = payloads

    async def generate(self, request: bytes, caller: Caller, context: Context) -> None:
        """Serialised GenerateRequest in, serialised GenerateResponses written. Cancelling it cancels the call.

        Raises:
            HeadraceError: `InferenceHandler.generate`'s, INFERENCE_TIMEOUT (DEADLINE_EXCEEDED), READER_TOO_SLOW
                (RESOURCE_EXHAUSTED), GENERATION_INTERRUPTED (ABORTED), the dispatcher's, the runner's.
        """
        await _Generation(self._inference, self._payloads, context).run(request, caller)


class _Generation:
    """One stream."""

    def __init__(self, inference: InferenceHandler, payloads: PayloadGate, context: Context) -> None:
        self._inference = inference
        self._payloads = payloads
        self._held_bytes = 0
        self._context = context
        self._unread = UnreadParts()
        self._outcome: Outcome | None = None
        # Ends a write that waits for a client that doesn't read, or has not read the end.
        self._stuck = asyncio.timeout(None)

    async def run(self, request: bytes, caller: Caller) -> None:
        call = self._inference.generate(request, caller, self._ended, self._take)
        try:
            async with self._stuck:
                # Not with the first message: a status can't follow headers whose sending was cancelled with that write,
                # and the client would wait for ever.
                await self._context.send_initial_metadata(())
                while (message := await self._unread.next()) is not None:
                    await self._context.write(message)
                assert self._outcome is not None, "a stream that is not cancelled ends with its call"
                if not isinstance(self._outcome, HeadraceError):
                    await self._context.write(self._outcome.payload)
        except TimeoutError:
            if not self._stuck.expired():
                raise
            if not isinstance(self._outcome, HeadraceError):
                self._outcome = read_too_late("the end", tenant_streams.UNREAD_S)
        finally:
            self._inference.cancel(call)
            self._payloads.leave(self._held_bytes)
        if isinstance(self._outcome, HeadraceError):
            raise self._outcome

    def _take(self, call: InferenceCall, message: bytes) -> None:
        if not self._unread.add(message):
            call.meters.generation.readers_too_slow += 1
            self._inference.give_up(call, reader_too_slow(UNREAD_BYTES_MAX))
            self._unread.drop()
            self._stuck.reschedule(asyncio.get_running_loop().time())

    def _ended(self, call: InferenceCall, outcome: Outcome) -> None:
        # Its end may have to wait for the client, and grpc lets go of the request only then. There is room: the call's.
        self._held_bytes = len(call.forget_request())
        self._payloads.enter(self._held_bytes)
        self._outcome = outcome
        self._unread.close()
        self._stuck.reschedule(asyncio.get_running_loop().time() + tenant_streams.UNREAD_S)
