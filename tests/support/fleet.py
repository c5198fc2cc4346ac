"""Runners that have a session with a gateway and one version loaded, for tests of who gets a call."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import manifest_pb2, models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.testing import FakeClock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.call import InferenceCall
from headrace_gateway.inference.routing import Router
from headrace_gateway.inference.routing_rules import RoutingRules
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.isolation import Isolation
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.session_calls import Answer
from headrace_gateway.version_meters import VersionMeters
from support.mesh_ends import SentCall

UID = "uid-1"


def answer(compute_s: float, calls: int = 1) -> Answer:
    """A runner's answer to one of `calls` that were executed together."""
    return Answer(b"", 0, int(compute_s * 1e6), 0, 0, calls, leads_batch=True, batch_calls=calls)


class Fleet:
    """Sessions of one gateway, and the router that chooses between them."""

    def __init__(
        self,
        rules: RoutingRules | None = None,
        *,
        seed: int = 0,
        isolation: Isolation | None = None,
        **manifest: object,
    ) -> None:
        self.clock = FakeClock()
        self.directory = RunnerDirectory(clock=self.clock, isolation=isolation)
        proto = models_pb2.Version(uid=UID, model="m", version=1, manifest=manifest_pb2.Manifest(**manifest))  # pyright: ignore
        self.version = CatalogVersion(tenant_id="acme", uid=UID, model="m", version=1, version_text="1", proto=proto)
        self.router = Router(
            directory=self.directory, clock=self.clock, random=Random(seed), rules=rules or RoutingRules()
        )

    def join(
        self,
        name: str,
        *,
        device: str = "cpu",
        slots: int = 1,
        credit: int = 10_000,
        in_flight: int = 0,
        cost_s: float | None = None,
        latency_s: float | None = None,
        labels: dict[str, str] | None = None,
    ) -> RunnerSession:
        """A runner with the version loaded; with a cost it has answered one call of it."""
        event = mesh_pb2.ModelEvent(version_uid=UID, state=gateway_pb2.MODEL_STATE_LOADED, execution_slots=slots)
        session = RunnerSession(
            hello=mesh_pb2.Hello(
                runner_name=name,
                boot_uuid="1",
                models=[event],
                device=mesh_pb2.Device(type=device),
                labels=labels or {},
                backends=["onnxruntime"],
            ),
            limits=LaneLimits(),
            budget=ByteBudget(total_bytes=1),
            clock=self.clock,
            load=LoopLoad(),
            changed=self.directory.changed,
        )
        window = mesh_pb2.Credit(messages=credit, payload_bytes=1000)
        session.calls.on_result_frame(mesh_pb2.ResultFrame(credit=window))
        if cost_s is not None or latency_s is not None:
            session.observe(UID, cost_s or 0.0 if latency_s is None else latency_s, answer(cost_s or 0.0))
        for _ in range(in_flight):
            self.send(session)
        self.directory.add(session)
        return session

    def send(self, session: RunnerSession, payload: bytes = b"") -> SentCall:
        """Gives a call to a runner."""
        sent = SentCall(payload, version_uid=UID)
        sent.id = session.calls.send(sent)
        return sent

    def finish(self, session: RunnerSession, call: SentCall) -> None:
        """The runner ends a call."""
        result = mesh_pb2.Result(id=call.id, attempt=call.attempt, terminal=True)
        while session.calls.next_small_frame() is not None:
            pass
        session.on_results(mesh_pb2.ResultFrame(results=[result]))

    def call(
        self,
        *,
        priority: int = 5,
        latency_critical: bool = False,
        timeout_s: float = 30.0,
        payload: bytes = b"",
        tenant_id: str = "acme",
    ) -> InferenceCall:
        """A call that looks for a replica."""
        now = self.clock.monotonic()
        return InferenceCall(
            self.version,
            "r",
            "",
            priority,
            now,
            now + timeout_s,
            payload,
            VersionMeters((tenant_id, "m", "1")),
            None,
            0,
            lambda call, outcome: None,
            latency_critical=latency_critical,
        )

    def choose(
        self, call: InferenceCall | None = None, usable: Callable[[RunnerSession], bool] = lambda session: True
    ) -> RunnerSession | None:
        """Whom the router chooses; nothing is sent."""
        return self.router.choose(call or self.call(), usable)

    def heartbeat(self, session: RunnerSession, **fields: object) -> None:
        """The runner gives a sign of life."""
        session.on_event(mesh_pb2.RunnerEvent(heartbeat=mesh_pb2.Heartbeat(**fields)))  # pyright: ignore
