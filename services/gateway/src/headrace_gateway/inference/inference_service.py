"""`headrace.gateway.v1.InferenceService`: Infer and InferBatch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from headrace.gateway.internal.v1 import raw_inference_pb2 as raw
from headrace_common import catalogue, wire
from headrace_common.clock import Clock
from headrace_common.errors import DeadlineError, HeadraceError, ValidationError
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.rpc_status import to_status
from headrace_gateway.accounting.call_accounts import BATCH
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.execution import write_response
from headrace_gateway.inference.handler import InferenceHandler
from headrace_gateway.inference.message_bounds import Repeated, check_counts, too_large, too_many
from headrace_gateway.inference.open_calls import OpenCalls
from headrace_gateway.inference.payload_gate import PayloadGate
from headrace_gateway.inference.request_fields import checked_priority

REQUESTS_MAX = 1_024
_REPEATED = {1: Repeated("requests")}
_MARGIN_MAX_S = 0.2
_MARGIN_RATIO = 0.1


class InferenceService:
    """Answers the unary methods, bytes in and bytes out; tensors stay unparsed.

    Args:
        payloads: Bounds the bytes of requests that are held; a batch counts whole until its last request has ended.
        calls: Bounds the calls in flight of all batches and streams.
        message_bytes_max: Largest message, in either direction.
        call_timeout_s: Time of a batch whose client states none.
    """

    def __init__(
        self,
        *,
        inference: InferenceHandler,
        payloads: PayloadGate,
        calls: AdmissionGate,
        clock: Clock,
        message_bytes_max: int,
        call_timeout_s: float,
    ) -> None:
        self._inference = inference
        self._clock = clock
        self._payloads = payloads
        self._calls = calls
        self._message_bytes_max = message_bytes_max
        self._call_timeout_s = call_timeout_s

    async def infer(self, request: bytes, caller: Caller) -> bytes:
        """Serialised InferRequest in, serialised InferResponse out.

        Raises:
            HeadraceError: REQUEST_MALFORMED, FIELD_INVALID (INVALID_ARGUMENT), `InferenceHandler.infer`'s.
        """
        self._check_size(request)
        try:
            message = raw.RawInferRequest.FromString(request)
        except DecodeError:
            raise wire.malformed() from None
        call, answer = await self._inference.infer(message.request, prioritised(caller, message))
        response = raw.RawInferResponse()
        write_response(response, call, answer)
        return response.SerializeToString()

    async def infer_batch(self, request: bytes, caller: Caller) -> bytes:
        """Serialised InferBatchRequest in, serialised InferBatchResponse out.

        Raises:
            ValidationError: REQUEST_MALFORMED, FIELD_REQUIRED, FIELD_TOO_LONG (INVALID_ARGUMENT).
        """
        self._check_size(request)
        check_counts(request, _REPEATED, REQUESTS_MAX)
        self._payloads.enter(len(request))
        try:
            message = raw.RawInferBatchRequest.FromString(request)
            return await self._run(message, caller)
        except DecodeError:
            raise wire.malformed() from None
        finally:
            self._payloads.leave(len(request))

    async def _run(self, message: raw.RawInferBatchRequest, caller: Caller) -> bytes:
        requests = message.requests
        if not requests:
            raise ValidationError(
                "requests must have at least one element",
                entry=catalogue.FIELD_REQUIRED,
                field="requests",
                context={"field": "requests"},
            )
        if len(requests) > REQUESTS_MAX:
            raise too_many("requests", len(requests), REQUESTS_MAX)
        batch = _Batch(
            inference=self._inference,
            calls=self._calls,
            clock=self._clock,
            requests=requests,
            caller=caller,
            timeout_s=self._call_timeout_s if caller.timeout_s is None else caller.timeout_s,
            concurrency=message.max_concurrency or len(requests),
            answer_bytes_max=self._message_bytes_max,
        )
        return (await batch.run()).SerializeToString()

    def _check_size(self, request: bytes) -> None:
        if len(request) > self._message_bytes_max:
            raise too_large(len(request), self._message_bytes_max)


class _Batch:
    """The requests of one InferBatch, a bounded number of them in flight and a bounded size of their answers."""

    def __init__(
        self,
        *,
        inference: InferenceHandler,
        calls: AdmissionGate,
        clock: Clock,
        requests: Sequence[raw.RawInferRequest],
        caller: Caller,
        timeout_s: float,
        concurrency: int,
        answer_bytes_max: int,
    ) -> None:
        self._clock = clock
        self._requests = requests
        self._caller = caller
        self._concurrency = concurrency
        self._answer_bytes_max = answer_bytes_max
        self._answer_bytes = 0
        self._response = raw.RawInferBatchResponse()
        for _ in requests:
            self._response.results.add()
        self._open = OpenCalls(inference=inference, gate=calls)
        self._next = 0
        # Requests that run out of time are to be told so before the RPC itself does.
        self._deadline = clock.monotonic() + timeout_s - min(_MARGIN_MAX_S, _MARGIN_RATIO * timeout_s)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> raw.RawInferBatchResponse:
        """The results in the order of the requests. Cancelling it cancels what is in flight."""
        try:
            self._fill()
            await self._done
        finally:
            self._open.close()
        return self._response

    def _fill(self) -> None:
        while self._next < len(self._requests) and len(self._open) < self._concurrency:
            index, self._next = self._next, self._next + 1
            try:
                self._begin(index)
            except HeadraceError as error:
                self._fail(index, error)
        if not self._open and not self._done.done():
            self._done.set_result(None)

    def _begin(self, index: int) -> None:
        message = self._requests[index]
        remaining_s = self._deadline - self._clock.monotonic()
        if remaining_s <= 0:
            raise DeadlineError(
                "the batch's deadline was over before this request could begin", entry=catalogue.DEADLINE_ALREADY_OVER
            )
        caller = prioritised(self._caller, message, f"requests[{index}].priority")._replace(
            timeout_s=remaining_s, kind=BATCH
        )
        self._open.begin(index, message.request, caller, self._ended)

    def _ended(self, call: InferenceCall, outcome: Outcome) -> None:
        index = call.tag
        self._open.ended(call)
        self._open.remove(index)
        if isinstance(outcome, HeadraceError):
            self._fail(index, outcome)
        elif self._answer_bytes + len(outcome.payload) > self._answer_bytes_max:
            self._fail(index, self._too_large(len(outcome.payload)))
        else:
            self._answer_bytes += len(outcome.payload)
            write_response(self._response.results[index].response, call, outcome)
        self._fill()

    def _too_large(self, size: int) -> ValidationError:
        actual, limit = self._answer_bytes + size, self._answer_bytes_max
        return ValidationError(
            f"with this response the batch's would have {actual} bytes, at most {limit} are sent; ask for less at once",
            entry=catalogue.MESSAGE_TOO_LARGE,
            context={"limit": limit, "actual": actual},
        )

    def _fail(self, index: int, error: HeadraceError) -> None:
        self._response.results[index].error = to_status(error, self._caller.request_id).SerializeToString()


def prioritised(caller: Caller, message: raw.RawInferRequest, field: str = "priority") -> Caller:
    """The caller with the priority that the message states.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT).
    """
    if not message.HasField("priority"):
        return caller
    return caller._replace(priority=checked_priority(message.priority, field))
