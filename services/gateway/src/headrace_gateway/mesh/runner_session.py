"""One runner as this gateway sees it: who it is, what it has loaded, how busy it is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import RunnerUnavailable
from headrace_common.lanes import ByteBudget, FramePacer, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_gateway.mesh.session_calls import SessionCalls

HEARTBEAT_TIMEOUT_S = 2.0
SILENCE_MAX_S = 5.0
_EWMA_WEIGHT = 0.1
# Until a call has been answered: long enough that calls are spread.
_COST_UNKNOWN_S = 0.1


class RunnerSession:
    """State of one session; its lanes are moved by the servicer.

    Args:
        hello: The runner's introduction, already checked.
        load: How busy this process is.
        changed: Called when the runner's state or models have changed.

    Attributes:
        unhealthy: Names of the backends that don't work, by the runner's last report.
        released: Versions that the runner let go because a gateway asked; whoever has acted on one takes it out.
    """

    def __init__(
        self,
        *,
        hello: mesh_pb2.Hello,
        limits: LaneLimits,
        budget: ByteBudget,
        clock: Clock,
        load: LoopLoad,
        changed: Callable[[RunnerSession], None],
    ) -> None:
        self.hello = hello
        self.id = f"{hello.runner_name}.{hello.boot_uuid}"
        self.token = secrets.token_urlsafe(32)
        self.state: gateway_pb2.RunnerState.ValueType = gateway_pb2.RUNNER_STATE_READY
        self.unhealthy = _unhealthy(hello.backend_info)
        self.connected_at = clock.now()
        self.heartbeat = mesh_pb2.Heartbeat()
        self.heartbeat_at = clock.monotonic()
        self.models: dict[str, mesh_pb2.ModelEvent] = {event.version_uid: event for event in hello.models}
        self.released: set[str] = set()
        self.latency_s = 0.0
        self._costs_s: dict[str, float] = {}
        self.commands: asyncio.Queue[mesh_pb2.GatewayCommand] = asyncio.Queue()
        self.lanes: set[str] = set()
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self.small_due = FramePacer(calls=lambda: (self.calls.queued, self.calls.in_flight), load=load, answers=False)
        self.bulk_due = asyncio.Event()
        self.calls = SessionCalls(
            limits=limits,
            budget=budget,
            wake=self._wake,
            ended=self._call_ended,
            gather_s=lambda: self.small_due.gather_s,
        )
        self._clock = clock
        self._changed = changed
        self._released = False

    @property
    def takes_calls(self) -> bool:
        """Whether new calls may be sent."""
        return self.state == gateway_pb2.RUNNER_STATE_READY

    @property
    def backends(self) -> frozenset[str]:
        """Names of the backends that it can use and that work."""
        return frozenset(self.hello.backends) - self.unhealthy

    def has_loaded(self, version_uid: str) -> bool:
        """Whether the version takes calls on this runner: it is loaded, and its backend works."""
        event = self.models.get(version_uid)
        return (
            event is not None and event.state == gateway_pb2.MODEL_STATE_LOADED and event.backend not in self.unhealthy
        )

    def cost_s(self, version_uid: str) -> float:
        """Time that one more call of the version takes here, its execution shared out over the execution slots."""
        known = self._costs_s.get(version_uid)
        if known is None:
            event = self.models.get(version_uid)
            known = self._costs_s[version_uid] = _COST_UNKNOWN_S / max(1, event.execution_slots if event else 1)
        return known

    def backend_of(self, version_uid: str) -> str:
        """Name of the backend that runs the version here; empty when it is not loaded."""
        event = self.models.get(version_uid)
        return event.backend if event is not None else ""

    def attach(self, lane: str) -> bool:
        """A data lane came; False when it is no lane or is there already."""
        if lane not in ("small", "bulk") or lane in self.lanes or self.closed.is_set():
            return False
        self.lanes.add(lane)
        self._open_when_complete()
        return True

    def on_results(self, frame: mesh_pb2.ResultFrame) -> None:
        """Takes a frame of the small lane.

        Raises:
            LaneViolation: The runner broke the protocol.
        """
        self.calls.on_result_frame(frame)
        if not self.opened.is_set():
            self._open_when_complete()

    def on_event(self, event: mesh_pb2.RunnerEvent) -> None:
        """Takes what the runner told on the control lane; unknown events are ignored."""
        match event.WhichOneof("event"):
            case "heartbeat":
                self.heartbeat = event.heartbeat
                self.heartbeat_at = self._clock.monotonic()
                unhealthy = _unhealthy(event.heartbeat.backend_info)
                if unhealthy != self.unhealthy:
                    self.unhealthy = unhealthy
                    self._changed(self)
                if self.state == gateway_pb2.RUNNER_STATE_EJECTED:
                    self._become(gateway_pb2.RUNNER_STATE_READY)
            case "model":
                self._on_model(event.model)
            case "draining":
                self.release()
            case _:
                return

    def check_heartbeat(self) -> None:
        """Ejects a runner that has been silent for too long, so that its calls fail over; ends a dead session."""
        silent_s = self._clock.monotonic() - self.heartbeat_at
        if silent_s > SILENCE_MAX_S:
            self.close()
        elif self.takes_calls and silent_s > HEARTBEAT_TIMEOUT_S:
            self._become(gateway_pb2.RUNNER_STATE_EJECTED)
            self.calls.fail_all(runner_lost())

    def drain(self) -> None:
        """Asks the runner to leave; it takes no new calls of this gateway from now on."""
        self._become(gateway_pb2.RUNNER_STATE_DRAINING)
        self.commands.put_nowait(mesh_pb2.GatewayCommand(drain=mesh_pb2.Drain()))

    def release(self) -> None:
        """Either side leaves: no new calls, and the session ends with the last open one."""
        self._become(gateway_pb2.RUNNER_STATE_DRAINING)
        self._released = True
        self._call_ended()

    def observe(self, version_uid: str, latency_s: float, compute_s: float) -> None:
        """Folds one answered call into the moving averages."""
        self.latency_s += _EWMA_WEIGHT * (latency_s - self.latency_s) if self.latency_s else latency_s
        event = self.models.get(version_uid)
        if event is not None:
            cost_s = self.cost_s(version_uid)
            self._costs_s[version_uid] = cost_s + _EWMA_WEIGHT * (compute_s / max(1, event.execution_slots) - cost_s)

    def close(self) -> None:
        """The session has ended: its waiting calls fail over to other runners."""
        if not self.closed.is_set():
            self.closed.set()
            self._released = False
            self.state = gateway_pb2.RUNNER_STATE_GONE
            self._changed(self)
            self.calls.close(runner_lost())

    def _on_model(self, event: mesh_pb2.ModelEvent) -> None:
        if event.state == gateway_pb2.MODEL_STATE_UNLOADED:
            self.models.pop(event.version_uid, None)
            self._costs_s.pop(event.version_uid, None)
            if event.released:
                self.released.add(event.version_uid)
        else:
            self.models[event.version_uid] = event
        self._changed(self)

    def _become(self, state: gateway_pb2.RunnerState.ValueType) -> None:
        if self.state not in (state, gateway_pb2.RUNNER_STATE_DRAINING, gateway_pb2.RUNNER_STATE_GONE):
            self.state = state
            self._changed(self)

    def _call_ended(self) -> None:
        if self._released and self.calls.in_flight == 0:
            self.close()

    def _open_when_complete(self) -> None:
        """Both lanes are there and the runner has granted its first credit."""
        if {"small", "bulk"} <= self.lanes and self.calls.credit_left > 0:
            self.opened.set()

    def _wake(self) -> None:
        self.small_due.notify()
        if self.calls.sending:
            self.bulk_due.set()


def _unhealthy(backends: Iterable[gateway_pb2.BackendInfo]) -> frozenset[str]:
    return frozenset(backend.name for backend in backends if not backend.healthy)


def runner_lost() -> RunnerUnavailable:
    return RunnerUnavailable("the runner was lost before it answered", entry=catalogue.RUNNER_LOST)
