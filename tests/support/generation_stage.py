"""A model that generates behind a gateway's inside, and one call of it that a test follows."""

from __future__ import annotations

from typing import Any

from headrace.gateway.v1 import generation_pb2 as generation
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.errors import HeadraceError
from headrace_gateway.accounting.call_accounts import Book
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.mesh.session_calls import Answer
from support.gateway_core import GatewayCore, Runner
from support.generated_texts import GENERATES


class GenerationStage:
    """A model that generates on some runners, and one call of it."""

    def __init__(
        self,
        *,
        runners: int = 2,
        slots: int = 0,
        limits: ResilienceLimits = ResilienceLimits(),  # noqa: B008 - frozen
        book: Book | None = None,
    ) -> None:
        self.core = GatewayCore(limits=limits, book=book)
        self.slots = slots
        self.uid = self.core.register("m", manifest=GENERATES)
        self.runners = [self.join(f"runner-{number}") for number in range(runners)]
        self.messages: list[generation.GenerateResponse] = []
        self.outcome: Outcome | None = None

    def join(self, name: str) -> Runner:
        runner = self.core.join(name)
        runner.loaded(self.uid, slots=self.slots)
        return runner

    def begin(self, *, model: str = "m", timeout_s: float | None = 30.0, **fields: Any) -> InferenceCall:
        request = generation.GenerateRequest(model_name=model, id="g", text="once", **fields)
        caller = Caller("acme", "r", "", timeout_s)
        return self.core.handler.generate(request.SerializeToString(), caller, self._ended, self._take)

    def _take(self, _call: InferenceCall, message: bytes) -> None:
        self.messages.append(generation.GenerateResponse.FromString(message))

    def _ended(self, _call: InferenceCall, outcome: Outcome) -> None:
        assert self.outcome is None
        self.outcome = outcome
        if isinstance(outcome, Answer):
            self.messages.append(generation.GenerateResponse.FromString(outcome.payload))

    def at(self) -> tuple[Runner, mesh_pb2.Call]:
        """Who has the call now, and the call there."""
        ((runner, call),) = [(runner, call) for runner in self.runners for call in runner.received()]
        return runner, call

    def lose(self, runner: Runner, call: mesh_pb2.Call) -> None:
        runner.forget(call)
        runner.session.close()

    @property
    def text(self) -> str:
        return "".join(delta.text for message in self.messages for delta in message.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token for message in self.messages for delta in message.deltas for token in delta.token_ids]

    @property
    def reason(self) -> str:
        assert isinstance(self.outcome, HeadraceError)
        return self.outcome.reason

    def metric(self, name: str) -> float:
        labels = {"tenant": "acme", "model": "m", "version": "1"}
        value = self.core.registry.get_sample_value(name, labels)
        assert value is not None
        return value
