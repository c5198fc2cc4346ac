"""From a client's bytes to a runner's bytes: admits a call, follows it to its one outcome, counts it."""

from __future__ import annotations

import asyncio
import math

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.deadline_wheel import DeadlineWheel
from headrace_common.errors import HeadraceError, InferenceTimeout, InternalError
from headrace_gateway.accounting.call_accounts import CallAccounts
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.features import GENERATE, Features
from headrace_gateway.inference.call import TIMEOUT_MAX_S, Caller, Ended, InferenceCall, Outcome
from headrace_gateway.inference.dispatcher import Dispatcher
from headrace_gateway.inference.generation.answer_parts import AnswerParts, Sink
from headrace_gateway.inference.generation.prompt_fields import (
    PLACES_MAX,
    TOKENS_MAX,
    prompt_affinity,
    read_generate,
    session_affinity,
)
from headrace_gateway.inference.generation.token_stream import TokenStream
from headrace_gateway.inference.message_bounds import too_large
from headrace_gateway.inference.outlook import wrong_task
from headrace_gateway.inference.payload_gate import PayloadGate
from headrace_gateway.inference.request_fields import RequestFieldReader
from headrace_gateway.inference.sequence_order import SequenceOrder
from headrace_gateway.mesh.session_calls import Answer
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.model_access import INFER, require_action

_TICK_S = 0.025
GENERATE_BYTES_MAX = 16 << 20
"""Largest request to generate; at most half of the largest message."""


class InferenceHandler:
    """Answers inferences without parsing a tensor. One event loop.

    Args:
        payloads: Bounds the bytes of the requests that are held.
        accounts: Reserves what a call may use, and writes down what it has used.
        message_bytes_max: Largest request; larger ones were received but are refused.
        call_timeout_s: Time of a call whose client states none, and `generate_timeout_s` where the model generates.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        features: Features,
        dispatcher: Dispatcher,
        accounts: CallAccounts,
        payloads: PayloadGate,
        metrics: GatewayMetrics,
        clock: Clock,
        message_bytes_max: int,
        call_timeout_s: float,
        generate_timeout_s: float,
    ) -> None:
        self._catalog = catalog
        self._features = features
        self._dispatcher = dispatcher
        self._accounts = accounts
        self._payloads = payloads
        self._metrics = metrics
        self._clock = clock
        self._message_bytes_max = message_bytes_max
        self._call_timeout_s = call_timeout_s
        self._generate_timeout_s = generate_timeout_s
        self._fields = RequestFieldReader()
        self._deadlines: DeadlineWheel[InferenceCall] = DeadlineWheel(tick_s=_TICK_S)
        self._order: SequenceOrder[InferenceCall] = SequenceOrder()

    def begin(
        self,
        request: bytes,
        caller: Caller,
        ended: Ended,
        tag: int = 0,
        *,
        windowed: bool = False,
        sink: Sink | None = None,
    ) -> InferenceCall:
        """Starts a call; `ended` is told its outcome once, later, unless it is cancelled. `tag` stays with the call.

        Args:
            request: A serialised ModelInferRequest.
            caller: Who calls.
            ended: Told once.
            tag: Whatever `ended` knows the call by.
            windowed: Whether it is one of a stream or batch that bounds how many it has open.
            sink: Takes all parts of the answer but the last; None where it must come whole.

        Raises:
            HeadraceError: MESSAGE_TOO_LARGE, SERVER_OVERLOADED, CONCURRENCY_EXCEEDED, those of the tenant's limits
                (RESOURCE_EXHAUSTED), CIRCUIT_OPEN, SPOOL_FULL, QUOTA_UNAVAILABLE (UNAVAILABLE), FEATURE_DISABLED,
                POLICY_FORBIDDEN (PERMISSION_DENIED), REQUEST_MALFORMED, FIELD_REQUIRED, MODEL_TASK_MISMATCH
                (INVALID_ARGUMENT), the catalogue's (NOT_FOUND …). Nothing was begun.
        """
        now = self._clock.monotonic()
        size = len(request)
        if size > self._message_bytes_max:
            raise too_large(size, self._message_bytes_max)
        fields = self._fields.read(request)
        version = self._resolve(caller, fields.model_name, fields.model_version)
        call = InferenceCall(
            version,
            caller.request_id,
            caller.traceparent,
            fields.priority if caller.priority is None else caller.priority,
            now,
            now + self._timeout_s(caller, version, fields.timeout_us),
            request,
            self._metrics.version(version),
            ended,
            tag,
            self._finished,
            windowed=windowed,
            latency_critical=fields.latency_critical,
        )
        if fields.sequence and version.proto.manifest.HasField("sequence"):
            call.sequence = fields.sequence
            call.sequence_start = fields.sequence_start
        elif version.generates:
            if sink is None:
                raise wrong_task(version)
            self._features.require(GENERATE, caller.tenant_id)
            call.parts = AnswerParts(request=request, meters=call.meters.generation, sink=sink)
            call.affinity = session_affinity(fields.session) if fields.session else prompt_affinity(request)
            call.places = min(fields.completions, PLACES_MAX)
            call.tokens_max = min(fields.tokens_max, TOKENS_MAX)
        return self._admit(call, caller, size)

    def generate(self, request: bytes, caller: Caller, ended: Ended, sink: Sink) -> InferenceCall:
        """Starts a call whose answer are GenerateResponses: the last one is the answer, `sink` gets those before.

        Args:
            request: A serialised GenerateRequest.
            caller: Who calls.
            ended: Told once.
            sink: Takes the messages for the client.

        Raises:
            HeadraceError: As `begin`, and FIELD_INVALID, FIELD_TOO_LONG (INVALID_ARGUMENT). Nothing was begun.
        """
        now = self._clock.monotonic()
        # The tokens of a continuation come on top.
        limit = min(GENERATE_BYTES_MAX, self._message_bytes_max // 2)
        if len(request) > limit:
            raise too_large(len(request), limit)
        fields = read_generate(request)
        version = self._resolve(caller, fields.model_name, fields.model_version)
        if not version.generates:
            raise wrong_task(version)
        self._features.require(GENERATE, caller.tenant_id)
        meters = self._metrics.version(version)
        parts = TokenStream(
            request=request,
            can_continue=fields.can_continue,
            model_name=version.model,
            model_version=version.version_text,
            meters=meters.generation,
            sink=sink,
        )
        call = InferenceCall(
            version,
            caller.request_id,
            caller.traceparent,
            fields.priority,
            now,
            now + self._timeout_s(caller, version),
            parts.request,
            meters,
            ended,
            0,
            self._finished,
            parts=parts,
            kind=mesh_pb2.CALL_KIND_GENERATE,
            affinity=fields.affinity,
            places=fields.places,
            tokens_max=fields.tokens_max,
        )
        return self._admit(call, caller, len(request))

    def _resolve(self, caller: Caller, model: str, version: str) -> CatalogVersion:
        found = self._catalog.resolve(caller.tenant_id, model, version, policies=caller.policies)
        if caller.policies:
            require_action(caller.policies, INFER, model)
        return found

    def _timeout_s(self, caller: Caller, version: CatalogVersion, stated_us: int = 0) -> float:
        """How long the call may take: what the request states replaces the default and shortens a deadline."""
        timeout_s = caller.timeout_s
        if stated_us:
            stated_s = stated_us / 1e6
            timeout_s = stated_s if timeout_s is None else min(timeout_s, stated_s)
        elif timeout_s is None:
            timeout_s = self._generate_timeout_s if version.generates else self._call_timeout_s
        return min(timeout_s, caller.within_s, TIMEOUT_MAX_S)

    def give_up(self, call: InferenceCall, error: HeadraceError) -> None:
        """Ends a call that is under way with a failure of this side."""
        self._dispatcher.cancel(call)
        self._finished(call, error)

    def give_up_all(self, error: HeadraceError) -> None:
        """Ends every call that is open: the server stops, and nobody shall be left without a word."""
        # The last ones first: those that wait are not to be sent as others make room.
        for call in reversed(self._deadlines.expired(math.inf)):
            if call.ended is not None:
                self.give_up(call, error)

    def _admit(self, call: InferenceCall, caller: Caller, request_bytes: int) -> InferenceCall:
        now, size = call.arrived_at, len(call.payload)
        call.held_bytes = size
        try:
            self._payloads.enter(size)
            try:
                self._accounts.open(call, caller, request_bytes)
                if call.sequence:
                    self._start_in_turn(call)
                else:
                    self._start(call)
            except BaseException:
                self._payloads.leave(size)
                raise
        except HeadraceError as error:
            call.meters.failed(error.reason, self._clock.monotonic() - now)
            raise
        call.meters.in_flight += 1
        if call.parts is not None:
            call.parts.meters.used = True
            call.parts.meters.streams += 1
        self._deadlines.add(call, call.deadline)
        return call

    def cancel(self, call: InferenceCall) -> None:
        """The client has gone; does nothing when the call has ended."""
        if call.ended is not None:
            self._dispatcher.cancel(call)
            self._close(call)
            now = self._clock.monotonic()
            call.meters.failed(catalogue.CALL_CANCELLED.reason, now - call.arrived_at)
            self._accounts.ended(call, None, now)

    async def model_infer(self, request: bytes, caller: Caller) -> bytes:
        """Serialised ModelInferRequest in, serialised ModelInferResponse out.

        Raises:
            HeadraceError: What `begin` raises, INFERENCE_TIMEOUT (DEADLINE_EXCEEDED), the dispatcher's, the runner's.
        """
        _, answer = await self.infer(request, caller)
        return answer.payload

    async def infer(self, request: bytes, caller: Caller) -> tuple[InferenceCall, Answer]:
        """Like `model_infer`, with everything that is known of the answer. Cancelling it cancels the call."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def ended(_call: InferenceCall, outcome: Outcome) -> None:
            # A cancelled task's future is done before the task runs and can cancel the call.
            if future.done():
                return
            if isinstance(outcome, HeadraceError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        call = self.begin(request, caller, ended)
        try:
            return call, await future
        except asyncio.CancelledError:
            self.cancel(call)
            raise

    async def watch_deadlines(self) -> None:
        """Ends calls whose time is over, until cancelled; runners do so themselves, unless they are stuck."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.end_overdue()
            self._dispatcher.tick()

    def end_overdue(self) -> None:
        """Ends calls whose time is over."""
        for call in self._deadlines.expired(self._clock.monotonic()):
            self._expire(call)

    def _start(self, call: InferenceCall) -> None:
        """Reserves what the call needs and sends it, or lets it wait for a grant."""
        if self._accounts.reserve(call):
            self._send(call)
        else:
            call.grant = asyncio.get_running_loop().create_task(self._send_when_granted(call), name="grant")

    def _send(self, call: InferenceCall) -> None:
        """Gives the call to the dispatcher and writes it down; what it sends leaves only after this has returned."""
        try:
            self._dispatcher.start(call)
        except BaseException:
            self._accounts.refused(call)
            raise
        self._accounts.admitted(call)

    async def _send_when_granted(self, call: InferenceCall) -> None:
        try:
            await self._accounts.granted(call)
            call.grant = None
            self._send(call)
        except HeadraceError as error:
            call.grant = None
            # The frames that it has passed know who it was told to: a circle, which is left to the collector.
            self._finished(call, error.with_traceback(None))
        except Exception:
            # A defect: nobody else would tell the client.
            call.grant = None
            self._finished(call, InternalError("the call could not be started"))
            raise

    def _start_in_turn(self, call: InferenceCall) -> None:
        """Starts a call of a sequence, or keeps it until those before it have ended."""
        if self._order.enter((call.version_uid, call.sequence), call):
            try:
                self._start(call)
            except BaseException:
                self._pass_turn(call)
                raise

    def _pass_turn(self, call: InferenceCall) -> None:
        following = self._order.leave((call.version_uid, call.sequence), call)
        if following is not None:
            # Not at once: it may fail at once, and so may all that follow.
            asyncio.get_running_loop().call_soon(self._start_following, following)

    def _start_following(self, call: InferenceCall) -> None:
        if call.ended is not None:
            try:
                self._start(call)
            except HeadraceError as error:
                self._finished(call, error)

    def _expire(self, call: InferenceCall) -> None:
        timeout_s = call.deadline - call.arrived_at
        error = InferenceTimeout(
            f"model '{call.version.model}' did not answer within {timeout_s:.3g} s",
            context={"model": call.version.model, "timeout_s": f"{timeout_s:.3g}"},
        )
        self._dispatcher.expire(call, error)
        self._finished(call, error)

    def _finished(self, call: InferenceCall, outcome: Outcome) -> None:
        ended = call.ended
        if ended is None:
            return
        self._close(call)
        now = self._clock.monotonic()
        parts = call.parts
        if parts is not None:
            outcome = parts.end(call, outcome, now)
        if isinstance(outcome, HeadraceError):
            call.meters.failed(outcome.reason, now - call.arrived_at)
        else:
            call.meters.answered(outcome, call.arrived_at, now, first_at=parts.first_at if parts is not None else 0.0)
        self._accounts.ended(call, outcome, now)
        ended(call, outcome)

    def _close(self, call: InferenceCall) -> None:
        call.ended = None
        if call.grant is not None:
            call.grant.cancel()
            call.grant = None
        call.meters.in_flight -= 1
        self._deadlines.discard(call, call.deadline)
        self._payloads.leave(call.held_bytes)
        if call.parts is not None:
            call.parts.meters.streams -= 1
        if call.sequence:
            self._pass_turn(call)
