"""What happens to runners, told to quota."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.quota.v1.usage_pb2 import RunnerEvent
from headrace_common.clock import Clock
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession

_READY, _EJECTED, _DRAINING = (
    gateway_pb2.RUNNER_STATE_READY,
    gateway_pb2.RUNNER_STATE_EJECTED,
    gateway_pb2.RUNNER_STATE_DRAINING,
)
Tell = Callable[[RunnerEvent], None]


@dataclass(slots=True)
class _Known:
    """The session of a runner as it was last looked at."""

    token: str
    device_type: str
    state: gateway_pb2.RunnerState.ValueType


class RunnerHistory:
    """Notices how runners come, change and go. One event loop.

    Args:
        directory: Where they are; listened to from now on.
        tell: Takes what happened.
    """

    def __init__(self, *, directory: RunnerDirectory, gateway_id: str, tell: Tell, clock: Clock) -> None:
        self._directory = directory
        self._gateway_id = gateway_id
        self._tell = tell
        self._clock = clock
        self._known: dict[str, _Known] = {}
        directory.add_listener(self._changed)

    def _changed(self, runner_id: str) -> None:
        session = self._directory.find(runner_id)
        if session is not None and session.state == gateway_pb2.RUNNER_STATE_GONE:
            session = None
        known = self._known.get(runner_id)
        if known is not None and (session is None or session.token != known.token):
            del self._known[runner_id]
            # Whoever said that it leaves has left.
            self._happened(runner_id, known, "left" if known.state == _DRAINING else "lost")
            known = None
        if session is None:
            return
        if known is None:
            known = self._known[runner_id] = _Known(session.token, session.hello.device.type, _READY)
            self._happened(runner_id, known, "connected")
        if session.state != known.state:
            self._moved(session, known)

    def _moved(self, session: RunnerSession, known: _Known) -> None:
        former, known.state = known.state, session.state
        if session.state == _EJECTED:
            self._happened(session.id, known, "ejected", session.trouble)
        elif session.state == _DRAINING:
            self._happened(session.id, known, "draining")
        elif former == _EJECTED:
            self._happened(session.id, known, "recovered")

    def _happened(self, runner_id: str, known: _Known, event: str, detail: str = "") -> None:
        message = RunnerEvent(
            runner_id=runner_id,
            gateway_id=self._gateway_id,
            event=event,
            device_type=known.device_type,
            detail=detail,
        )
        message.event_time.FromDatetime(self._clock.now())
        self._tell(message)
