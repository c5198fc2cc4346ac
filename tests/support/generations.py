"""Calls to generate as the mesh hands them to a runner, and what their callers hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.registry.v1.models_pb2 import Version
from headrace.runner.internal.v1.mesh_pb2 import CallKind, GenerateCall
from headrace_common.errors import HeadraceError
from headrace_runner.calls import Answer, Outcome
from inference import open_inference_pb2 as oip
from support.eventually import eventually
from support.runner import TENANT, RunnerUnderTest


@dataclass
class Heard:
    """What a caller has heard of a call, and how it cancels it."""

    cancel: Callable[[], None] = lambda: None
    parts: list[bytes] = field(default_factory=list[bytes])
    outcome: Outcome | None = None

    @property
    def over(self) -> bool:
        return self.outcome is not None

    @property
    def error(self) -> HeadraceError:
        assert isinstance(self.outcome, HeadraceError), self.outcome
        return self.outcome

    @property
    def payloads(self) -> list[bytes]:
        assert isinstance(self.outcome, Answer), self.outcome
        return [*self.parts, bytes(self.outcome.payload)]

    @property
    def messages(self) -> list[pb.GenerateResponse]:
        return [pb.GenerateResponse.FromString(payload) for payload in self.payloads]

    @property
    def tokens(self) -> list[int]:
        """All tokens so far."""
        messages = [pb.GenerateResponse.FromString(payload) for payload in self.parts]
        return [token for message in messages for delta in message.deltas for token in delta.token_ids]

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for message in self.messages for delta in message.deltas if delta.index == index)


@dataclass
class Generations:
    """A runner with a language model."""

    runner: RunnerUnderTest
    version: Version

    def generate(
        self, text: str = "once", *, emitted: Iterable[int] = (), request: pb.GenerateRequest | None = None, **call: Any
    ) -> Heard:
        sampling = pb.SamplingParameters(temperature=0, seed=0, max_tokens=8)
        request = request or pb.GenerateRequest(text=text, sampling=sampling)
        payload = GenerateCall(request=request, emitted=emitted).SerializeToString()
        return self.begin(payload, CallKind.CALL_KIND_GENERATE, **call)

    def infer(self, request: oip.ModelInferRequest) -> Heard:
        return self.begin(request.SerializeToString(), CallKind.CALL_KIND_INFER)

    def begin(self, payload: bytes, kind: CallKind.ValueType, **call: Any) -> Heard:
        heard = Heard()

        def ended(outcome: Outcome) -> None:
            assert heard.outcome is None, "told twice"
            heard.outcome = outcome

        def emit(part: bytes) -> None:
            assert heard.outcome is None, "a part after the end"
            heard.parts.append(part)

        incoming = self.runner.call(self.version, payload, **call)._replace(kind=kind, emit=emit)
        heard.cancel = self.runner.host.begin(incoming, ended)
        return heard

    async def over(self, *heard: Heard) -> None:
        await eventually(lambda: all(one.over for one in heard))

    async def all_free(self) -> None:
        """Waits until no slot is taken and no task is left."""
        await eventually(lambda: self.runner.host.load().in_flight == 0)
        await eventually(lambda: self.metric("generation_slots_used") == 0)
        await eventually(lambda: not any(task.get_name().startswith("generate-") for task in asyncio.all_tasks()))

    def metric(self, name: str, **labels: str) -> float:
        return self.runner.metric(name, tenant=TENANT, model=self.version.model, version="1", **labels)
