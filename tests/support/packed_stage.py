"""One packed stream over a gateway's core, whose model a scripted runner has."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from headrace.gateway.v1 import inference_pb2 as pb
from headrace_common.errors import HeadraceError
from headrace_common.principal import ModelPolicy, Principal
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.rpc_status import from_status
from headrace_gateway.inference.packed_stream import PackedStream, StreamLimits
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner

LIMITS = StreamLimits(
    message_bytes_max=20_000,
    default_timeout_s=30.0,
    calls_max=4,
    bytes_max=1_000,
    calls_per_message_max=8,
    unread_bytes_max=200,
)
NAME = "m"


def _principal(tenant_id: str, policies: tuple[ModelPolicy, ...] = ()) -> Principal:
    return Principal(tenant_id=tenant_id, roles=frozenset({"user"}), key_id="k", subject="key:k", policies=policies)


class Stage:
    """A stream of the tenant acme, whose model `m` is loaded on one runner."""

    def __init__(self, *, limits: StreamLimits = LIMITS, gate: int = 10_000, loaded: bool = True) -> None:
        self.core = GatewayCore()
        self.uid = self.core.register(NAME)
        self.runner: Runner = self.core.join()
        if loaded:
            self.runner.loaded(self.uid)
        self.gate = AdmissionGate(limit=gate)
        self.woken = 0
        self.limits: pb.StreamLimits | None = None
        self.draining = 0
        self.stream = self.open(limits)

    def open(
        self, limits: StreamLimits = LIMITS, *, tenant_id: str = "acme", policies: tuple[ModelPolicy, ...] = ()
    ) -> PackedStream:
        """One more stream."""
        return PackedStream(
            inference=self.core.handler,
            gate=self.gate,
            limits=limits,
            principal=_principal(tenant_id, policies),
            request_id="stream",
            wake=self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    def send(self, *calls: pb.StreamCall, cancels: tuple[int, ...] = ()) -> None:
        """Gives the stream one message."""
        list(self.stream.on_message(pb.StreamRequest(calls=calls, cancels=cancels).SerializeToString()))

    def answered(self) -> dict[int, pb.StreamAnswer]:
        """What would go to the client now; an id that came twice fails."""
        found: dict[int, pb.StreamAnswer] = {}
        while (sent := self.stream.next_message()) is not None:
            message = pb.StreamResponse.FromString(sent)
            if message.HasField("limits"):
                assert self.limits is None, "limits are in the first message and in no other"
                self.limits = message.limits
            self.draining += message.draining
            for answer in message.answers:
                assert answer.id not in found
                found[answer.id] = answer
        return found

    def refusals(self) -> dict[int, str]:
        """Reasons of what would go to the client now, all of it failures."""
        return {call_id: reason_of(answer.error) for call_id, answer in self.answered().items()}

    def check_idle(self) -> None:
        """Nothing is counted any more that was counted for a call."""
        meters = self.core.metrics.peek(self.core.catalog.resolve("acme", NAME, ""))
        assert (self.stream.in_flight, self.gate.taken, meters.in_flight) == (0, 0, 0)
        assert self.core.payloads.held_bytes == 0
        assert not self.stream.full


def call(call_id: int, *, model: str = NAME, size: int = 0, timeout: Duration | None = None, **fields: Any) -> Any:
    """A call of one inference, with a tensor of so many bytes."""
    request = oip.ModelInferRequest(model_name=model, raw_input_contents=[bytes(size)] if size else [])
    infer = pb.InferRequest(request=request, priority=fields.pop("priority", None))
    return pb.StreamCall(id=call_id, infer=infer, timeout=timeout, **fields)


def response(name: str = "", size: int = 0) -> bytes:
    """An answer as a runner gives it, with a tensor of so many bytes."""
    return oip.ModelInferResponse(id=name, raw_output_contents=[bytes(size)] if size else []).SerializeToString()


def reason_of(status: Status) -> str:
    """Why a call failed."""
    return from_status(status).reason


def broken_by(stage: Stage, message: bytes) -> HeadraceError:
    """How the stream ends with this message; closing it leaves nothing."""
    with pytest.raises(HeadraceError) as caught:
        list(stage.stream.on_message(message))
    stage.stream.close()
    stage.check_idle()
    return caught.value
