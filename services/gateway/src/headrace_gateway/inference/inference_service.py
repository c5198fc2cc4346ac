"""`headrace.gateway.v1.InferenceService`: Infer and InferBatch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from headrace.gateway.internal.v1 import raw_inference_pb2 as raw
from headrace_common import catalogue, wire
from headrace_common.errors import HeadraceError, ValidationError
from headrace_common.rpc_status import to_status
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.execution import write_response
from headrace_gateway.inference.handler import InferenceHandler

PRIORITY_MAX = 9
REQUESTS_MAX = 1_024


class InferenceService:
    """Answers the unary methods, bytes in and bytes out; tensors stay unparsed.

    Args:
        answer_bytes_max: Bytes of all responses of one batch.
    """

    def __init__(self, *, inference: InferenceHandler, answer_bytes_max: int) -> None:
        self._inference = inference
        self._answer_bytes_max = answer_bytes_max

    async def infer(self, request: bytes, caller: Caller) -> bytes:
        """Serialised InferRequest in, serialised InferResponse out.

        Raises:
            HeadraceError: REQUEST_MALFORMED, FIELD_INVALID (INVALID_ARGUMENT), `InferenceHandler.infer`'s.
        """
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
        try:
            message = raw.RawInferBatchRequest.FromString(request)
        except DecodeError:
            raise wire.malformed() from None
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
        concurrency = message.max_concurrency or len(requests)
        batch = _Batch(self._inference, requests, caller, concurrency, self._answer_bytes_max)
        return (await batch.run()).SerializeToString()


class _Batch:
    """The requests of one InferBatch, a bounded number of them in flight and a bounded size of their answers."""

    def __init__(
        self,
        inference: InferenceHandler,
        requests: Sequence[raw.RawInferRequest],
        caller: Caller,
        concurrency: int,
        answer_bytes_max: int,
    ) -> None:
        self._inference = inference
        self._requests = requests
        self._caller = caller
        self._concurrency = concurrency
        self._answer_bytes_max = answer_bytes_max
        self._answer_bytes = 0
        self._response = raw.RawInferBatchResponse()
        for _ in requests:
            self._response.results.add()
        self._in_flight: dict[int, InferenceCall] = {}
        self._next = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> raw.RawInferBatchResponse:
        """The results in the order of the requests. Cancelling it cancels what is in flight."""
        try:
            self._fill()
            await self._done
        finally:
            for call in self._in_flight.values():
                self._inference.cancel(call)
        return self._response

    def _fill(self) -> None:
        while self._next < len(self._requests) and len(self._in_flight) < self._concurrency:
            index, self._next = self._next, self._next + 1
            message = self._requests[index]
            try:
                caller = prioritised(self._caller, message, f"requests[{index}].priority")
                call = self._inference.begin(message.request, caller, self._ended, index)
            except HeadraceError as error:
                self._fail(index, error)
            else:
                self._in_flight[index] = call
        if not self._in_flight and not self._done.done():
            self._done.set_result(None)

    def _ended(self, call: InferenceCall, outcome: Outcome) -> None:
        index = call.tag
        del self._in_flight[index]
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


def checked_priority(priority: int, field: str) -> int:
    """The priority, if it is one.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT).
    """
    if priority > PRIORITY_MAX:
        raise ValidationError(
            f"{field} must be 0 to {PRIORITY_MAX}, {PRIORITY_MAX} is most urgent",
            entry=catalogue.FIELD_INVALID,
            field=field,
            context={"field": field},
        )
    return priority


def too_many(field: str, count: int, limit: int) -> ValidationError:
    return ValidationError(
        f"{field} has {count} elements, at most {limit} are accepted",
        entry=catalogue.FIELD_TOO_LONG,
        context={"field": field, "limit": limit},
        field=field,
    )
