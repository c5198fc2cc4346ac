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
from headrace_gateway.mesh.runner_work import RunnerWork
from headrace_gateway.mesh.session_calls import Answer, SessionCalls

HEARTBEAT_TIMEOUT_S = 2.0
SILENCE_MAX_S = 5.0


class RunnerSession:
    """State of one session; its lanes are moved by the servicer.

    Args:
        hello: The runner's introduction, already checked.
        load: How busy this process is.
        changed: Called when the runner's state or models have changed.
        subject: Who it has shown to be, by certificate or token; empty where nobody is asked.

    Attributes:
        unhealthy: Names of the backends that don't work, by the runner's last report.
        work: What its calls take, and how many it has.
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
        subject: str = "",
    ) -> None:
        self.hello = hello
        self.subject = subject
        self.id = f"{hello.runner_name}.{hello.boot_uuid}"
        self.token = secrets.token_urlsafe(32)
        self.state: gateway_pb2.RunnerState.ValueType = gateway_pb2.RUNNER_STATE_READY
        self.unhealthy = _unhealthy(hello.backend_info)
        self.connected_at = clock.now()
        self.heartbeat = mesh_pb2.Heartbeat()
        self.heartbeat_at = clock.monotonic()
        self.models: dict[str, mesh_pb2.ModelEvent] = {event.version_uid: event for event in hello.models}
        self.released: set[str] = set()
        self.work = RunnerWork(now=clock.monotonic())
        for event in hello.models:
            self._note_work(event, clock.monotonic())
        self.commands: asyncio.Queue[mesh_pb2.GatewayCommand] = asyncio.Queue()
        self.lanes: set[str] = set()
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self.small_due = FramePacer(calls=lambda: (self.calls.queued, self.calls.in_flight), load=load, answers=False)
        self.bulk_due = asyncio.Event()
        self.calls = SessionCalls(
            limits=limits,
            budget=budget,
            work=self.work,
            wake=self._wake,
            ended=self._call_ended,
            gather_s=lambda: self.small_due.gather_s,
        )
        self._clock = clock
        self._changed = changed
        self._released = False
        self._silent = False
        self._outlier = False

    @property
    def takes_calls(self) -> bool:
        """Whether new calls may be sent."""
        return self.state == gateway_pb2.RUNNER_STATE_READY

    @property
    def trouble(self) -> str:
        """Why it is ejected, in words; empty when it isn't."""
        if self._silent:
            return "its heartbeats stopped"
        return "its answers are worse than those of other runners" if self._outlier else ""

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
                self.work.heard(event.heartbeat, self.heartbeat_at)
                unhealthy = _unhealthy(event.heartbeat.backend_info)
                if unhealthy != self.unhealthy:
                    self.unhealthy = unhealthy
                    self._changed(self)
                self._silent = False
                self._settle()
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
        elif silent_s > HEARTBEAT_TIMEOUT_S and not self._silent:
            self._silent = True
            self._settle()
            self.calls.fail_all(runner_lost())

    def eject(self) -> None:
        """Its answers are not what they should be: it takes no calls until `restore`, whatever its heartbeats say.

        Calls that it has may still be answered.
        """
        self._outlier = True
        self._settle()

    def restore(self) -> None:
        """Undoes `eject`: it takes calls again, unless it is silent."""
        self._outlier = False
        self._settle()

    def drain(self) -> None:
        """Asks the runner to leave; it takes no new calls of this gateway from now on."""
        self._become(gateway_pb2.RUNNER_STATE_DRAINING)
        self.commands.put_nowait(mesh_pb2.GatewayCommand(drain=mesh_pb2.Drain()))

    def release(self) -> None:
        """Either side leaves: no new calls, and the session ends with the last open one."""
        self._become(gateway_pb2.RUNNER_STATE_DRAINING)
        self._released = True
        self._call_ended()

    def observe(self, version_uid: str, latency_s: float, answer: Answer, *, in_parts: bool = False) -> None:
        """Folds one answered call into the moving averages.

        Of an answer in parts, whose latency is that of the first one, the rest of the execution is left out: it is as
        long as its client likes.
        """
        compute_s = answer.compute_us / 1e6 / answer.batch_calls
        self.work.answered(version_uid, latency_s, min(compute_s, latency_s) if in_parts else compute_s)

    def close(self) -> None:
        """The session has ended: its waiting calls fail over to other runners."""
        if not self.closed.is_set():
            self.closed.set()
            self._released = False
            self.state = gateway_pb2.RUNNER_STATE_GONE
            self._changed(self)
            self.calls.close(runner_lost())

    def _on_model(self, event: mesh_pb2.ModelEvent) -> None:
        self._note_work(event, self._clock.monotonic())
        if event.state == gateway_pb2.MODEL_STATE_UNLOADED:
            self.models.pop(event.version_uid, None)
            if event.released:
                self.released.add(event.version_uid)
        else:
            self.models[event.version_uid] = event
        self._changed(self)

    def _note_work(self, event: mesh_pb2.ModelEvent, now: float) -> None:
        if event.state == gateway_pb2.MODEL_STATE_LOADED:
            self.work.loaded(event.version_uid, event.execution_slots, now)
        else:
            self.work.unloaded(event.version_uid)

    def _settle(self) -> None:
        """Ejected for as long as there is a reason; one that comes back has to warm up."""
        if self._silent or self._outlier:
            self._become(gateway_pb2.RUNNER_STATE_EJECTED)
        elif self.state == gateway_pb2.RUNNER_STATE_EJECTED:
            self.work.restored(self._clock.monotonic())
            self._become(gateway_pb2.RUNNER_STATE_READY)

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
