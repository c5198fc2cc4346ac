"""A gateway whose runners fail as a test wants, in one process and in simulated time."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from headrace.registry.v1 import manifest_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.errors import (
    HeadraceError,
)
from headrace_gateway.accounting.call_accounts import Book
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner


class Stage:
    """A gateway with runners that all have one model."""

    def __init__(
        self,
        runners: int = 2,
        limits: ResilienceLimits = ResilienceLimits(),  # noqa: B008 - frozen
        *,
        hedge_after_s: float = 0.0,
        book: Book | None = None,
    ) -> None:
        self.core = GatewayCore(limits=limits, book=book)
        manifest = manifest_pb2.Manifest(backend="onnxruntime", batched=True)
        if hedge_after_s:
            manifest.routing.hedge_after.CopyFrom(Duration(nanos=int(hedge_after_s * 1e9)))
        self.runners = [self.core.join(f"runner-{number}") for number in range(runners)]
        self.uid = self.register("m", manifest)

    def register(self, model: str, manifest: manifest_pb2.Manifest | None = None) -> str:
        uid = self.core.register(model, manifest=manifest)
        for runner in self.runners:
            runner.loaded(uid)
        return uid

    def begin(self, model: str = "m", *, timeout_s: float = 30.0, sequence: str = "") -> Outcomes:
        request = oip.ModelInferRequest(model_name=model)
        if sequence:
            request.parameters["sequence_id"].string_param = sequence
        told = Outcomes()
        told.call = self.core.handler.begin(
            request.SerializeToString(),
            Caller("acme", "r", "", timeout_s),
            lambda _call, outcome: told.append(outcome),
        )
        return told

    def holder(self, *, but: Runner | None = None) -> Runner:
        """The runner that has a call."""
        return next(runner for runner in self.runners if runner is not but and runner.received())

    def answer_all(self, failure: HeadraceError | None = None) -> None:
        for runner in self.runners:
            if not runner.session.closed.is_set():
                for call in runner.received():
                    runner.answer(call, failure=failure)


class Outcomes(list[Outcome]):
    """What a caller was told."""

    call: InferenceCall

    @property
    def reason(self) -> str:
        (outcome,) = self
        return outcome.reason if isinstance(outcome, HeadraceError) else "OK"


def heartbeat() -> mesh_pb2.RunnerEvent:
    return mesh_pb2.RunnerEvent(heartbeat=mesh_pb2.Heartbeat())


def pass_with_heartbeats(stage: Stage, seconds: float) -> None:
    while seconds > 0:
        stage.core.pass_time(min(0.25, seconds))
        seconds -= 0.25
        for runner in stage.runners:
            runner.session.on_event(heartbeat())


def sample(stage: Stage, metric: str, /, **labels: str) -> float | None:
    return stage.core.registry.get_sample_value(metric, labels)


def assert_idle(stage: Stage) -> None:
    traffic = stage.core.dispatcher.health.traffic
    for model in traffic.models.values():
        assert (model.sent, len(model.line), len(model.room)) == (0, 0, 0)
        assert all(replica.in_flight == 0 for replica in model.replicas.values())
        assert (model.tenant.sent, len(model.tenant.room), len(model.tenant.hall)) == (0, 0, 0)
    assert not stage.core.dispatcher.line.models
    log = stage.core.log
    assert not log.open
    assert len(log.rows) == log.admissions
