"""What answers say about replicas and runners, and what follows: open breakers, ejections."""

from __future__ import annotations

from collections import Counter

from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_gateway.inference.resilience import failures
from headrace_gateway.inference.resilience.circuit_breaker import BreakerState
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.inference.resilience.outlier_detector import OutlierDetector
from headrace_gateway.inference.resilience.traffic import ModelTraffic, ReplicaTraffic, Traffic
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.session_calls import Answer

# A replica is silent that answers nothing for so long, or for so many times what an answer of it usually takes.
_SILENCE_MIN_S = 2.0
_SILENCE_CALLS = 20.0
_OTHERS_ANSWERED_S = 1.0
# Versions of which a runner answers no call before it is the runner that is silent.
_SILENT_VERSIONS_MIN = 2
_TOO_MANY_REQUESTS = 429


class ReplicaHealth:
    """Judges replicas by their answers and runners by their replicas. One event loop.

    Attributes:
        transitions: Of all breakers, by the state that was reached.
        ejections: Of runners, by cause: `errors` or `silence`.
    """

    def __init__(self, *, directory: RunnerDirectory, limits: ResilienceLimits, clock: Clock) -> None:
        self.transitions: Counter[BreakerState] = Counter()
        self.ejections: Counter[str] = Counter()
        self._directory = directory
        self._clock = clock
        self._detector = OutlierDetector(failures=limits.outlier_failures, eject_s=limits.outlier_eject_s)
        self.traffic = Traffic(limits=limits, clock=clock, record=self._detector.record, changed=self._transition)

    def answered(
        self, replica: ReplicaTraffic, answer: Answer, sent_at: float, now: float, *, heard: bool = False
    ) -> None:
        """A good answer; `heard` if a part of it was told before."""
        replica.ok_at = replica.heard_at = now
        breaker = replica.breaker
        if not breaker.state and now < breaker.half_ends_at:
            breaker.ok += 1
        elif not (heard and breaker.state):
            breaker.succeeded(now, sent_at)
        if replica.record.row:
            replica.record.succeeded()
        replica.window.observe(answer.queue_us, answer.compute_us, now)

    def heard(self, replica: ReplicaTraffic, sent_at: float, now: float) -> None:
        """The first part of a good answer. A breaker that is not closed need not wait for the rest of it."""
        replica.ok_at = replica.heard_at = now
        if replica.breaker.state:
            replica.breaker.succeeded(now, sent_at)

    def expired(self, replica: ReplicaTraffic, error: HeadraceError, sent_at: float, now: float) -> None:
        """No answer until the deadline."""
        self._judge(replica, error, sent_at, now)

    def failed(self, replica: ReplicaTraffic, error: HeadraceError, sent_at: float, now: float) -> None:
        """A failed answer."""
        replica.heard_at = now
        self._judge(replica, error, sent_at, now)

    def unknown(self, replica: ReplicaTraffic, sent_at: float) -> None:
        """A call was cancelled."""
        if replica.breaker.state:
            replica.breaker.abandoned(sent_at)

    def state(self, session: RunnerSession, version_uid: str) -> BreakerState:
        """The breaker's state of a version at a runner."""
        model = self.traffic.models.get(version_uid)
        replica = model.replicas.get(session.token) if model is not None else None
        return replica.breaker.state if replica is not None else BreakerState.CLOSED

    def open_for_s(self, model: ModelTraffic, now: float) -> float | None:
        """How long every replica's breaker keeps calls away, None when one lets them through."""
        if not model.troubled:
            return None
        waits: list[float] = []
        for session in self._directory.replicas(model.version.uid):
            replica = model.replicas.get(session.token)
            if replica is None or replica.breaker.allows(now):
                return None
            waits.append(replica.breaker.probe_due_s(now))
        return min(waits, default=None)

    def probe(self, model: ModelTraffic, payload_bytes: int) -> RunnerSession | None:
        """A replica whose breaker wants to know whether it has recovered; asked only while some are not closed."""
        for session in self._directory.replicas(model.version.uid):
            replica = model.replicas.get(session.token)
            troubled = replica is not None and replica.breaker.state
            if troubled and session.calls.has_room(payload_bytes) and model.usable(session):
                return session
        return None

    def watch(self, now: float) -> None:
        """To be called a few times a second: acts on silence, brings back runners whose time is over.

        The breaker of a replica that is silent opens. Only a runner of which all that it is asked is silent is ejected,
        and only if that are two versions or more: of one alone it may be the model that hangs.
        """
        returning = set(self._detector.returning(now))
        for session in self._directory:
            if session.id in returning:
                session.restore()
                self._listen(session.token, now)
        silent: dict[RunnerSession, int] = {}
        for model in list(self.traffic.models.values()):
            # One that generates may be silent for as long as a prompt takes.
            if model.sent and len(model.replicas) > 1 and not model.version.generates:
                for replica in self._silent(model, now):
                    replica.breaker.trip(now)
                    silent[replica.session] = silent.get(replica.session, 0) + 1
        for session, versions in silent.items():
            if versions >= _SILENT_VERSIONS_MIN and versions == self._asked(session.token):
                self._eject(session, "silence", now)

    def left(self) -> None:
        """Forgets runners that are not connected any more."""
        self._detector.keep({session.id for session in self._directory})

    def _silent(self, model: ModelTraffic, now: float) -> list[ReplicaTraffic]:
        latest = max(replica.ok_at for replica in model.replicas.values())
        if now - latest > _OTHERS_ANSWERED_S:
            return []
        return [
            replica
            for replica in model.replicas.values()
            if replica.in_flight
            # The first answer may take its time; nobody knows how long.
            and replica.ok_at
            and replica.session.takes_calls
            and now - replica.heard_at
            > max(_SILENCE_MIN_S, _SILENCE_CALLS * replica.session.work.version(model.version.uid).latency_s)
        ]

    def _asked(self, token: str) -> int:
        """How many versions have calls at a session."""
        replicas = (model.replicas.get(token) for model in self.traffic.models.values())
        return sum(replica is not None and replica.in_flight > 0 for replica in replicas)

    def _listen(self, token: str, now: float) -> None:
        """The silence of a session's replicas counts from now on."""
        for model in self.traffic.models.values():
            replica = model.replicas.get(token)
            if replica is not None:
                replica.heard_at = now

    def _judge(self, replica: ReplicaTraffic, error: HeadraceError, sent_at: float, now: float) -> None:
        counts = failures.counts_as_failure(
            error.reason,
            waited_s=now - sent_at,
            since_success_s=now - replica.ok_at,
            generates=replica.model.version.generates,
        )
        if counts:
            replica.breaker.failed(now, sent_at)
            unexplained = error.reason in failures.RUNNER_FAULTS
            if self._detector.failed(replica.session.id, replica.model.version.uid, unexplained=unexplained):
                self._eject(replica.session, "errors", now)
        elif error.entry.http < 500 and error.entry.http != _TOO_MANY_REQUESTS:
            replica.breaker.succeeded(now, sent_at)
        elif replica.breaker.state:
            replica.breaker.abandoned(sent_at)

    def _eject(self, session: RunnerSession, cause: str, now: float) -> None:
        if self._detector.eject(session.id, runners=len(self._directory), now=now) is not None:
            self.ejections[cause] += 1
            session.eject()

    def _transition(self, _former: BreakerState, state: BreakerState) -> None:
        self.transitions[state] += 1
