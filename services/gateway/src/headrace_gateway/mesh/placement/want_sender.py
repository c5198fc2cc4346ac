"""Tells runners what is wanted of them, no more often than they need to hear it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from google.protobuf.duration_pb2 import Duration

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1.models_pb2 import Version
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.clock import Clock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.runner_session import RunnerSession

WANT_TTL_S = 30.0
_RENEW_S = WANT_TTL_S / 2
_ASK_AGAIN_S = 1.0
# A runner pauses between its tries to load what has failed, and answers each want meanwhile.
_ASK_FAILED_AGAIN_S = 2.0

SignTicket = Callable[[CatalogVersion], str]


class WantSender:
    """Sends wants, withdrawals and releases on the control lanes. One event loop.

    A want that only renews one for a version that the runner has is a hundred bytes: the manifest, the files and the
    ticket travel to runners that still have to load it.

    Attributes:
        sent: Wants sent.
    """

    def __init__(self, *, sign_ticket: SignTicket, clock: Clock) -> None:
        self._sign_ticket = sign_ticket
        self._clock = clock
        self._told: dict[str, dict[str, float]] = {}
        self.sent = 0

    def tell(self, version: CatalogVersion, sessions: Iterable[RunnerSession]) -> None:
        """Asks runners to have a version, those that have heard it lately aside."""
        now = self._clock.monotonic()
        told = self._told.setdefault(version.uid, {})
        for session in sessions:
            told_at = told.get(session.token)
            if told_at is None or now - told_at > _pause_s(session, version.uid):
                told[session.token] = now
                self._want(version, session)
        if len(told) > 1:
            self._told[version.uid] = {token: at for token, at in told.items() if now - at < WANT_TTL_S}

    def withdraw(self, uid: str, sessions: Iterable[RunnerSession]) -> None:
        """Nothing is wanted of a version any more."""
        self._told.pop(uid, None)
        for session in sessions:
            want = mesh_pb2.Want(version=Version(uid=uid), ttl=Duration())
            session.commands.put_nowait(mesh_pb2.GatewayCommand(want=want))

    def release(self, uid: str, sessions: Iterable[RunnerSession]) -> None:
        """Runners shall let a version go, whoever wants it."""
        self._told.pop(uid, None)
        for session in sessions:
            release = mesh_pb2.Release(version_uid=uid)
            session.commands.put_nowait(mesh_pb2.GatewayCommand(release=release))

    def forget(self, uid: str) -> None:
        """A version is wanted no more; what was said of it lapses."""
        self._told.pop(uid, None)

    def _want(self, version: CatalogVersion, session: RunnerSession) -> None:
        want = mesh_pb2.Want(tenant_id=version.tenant_id, ttl=Duration(seconds=int(WANT_TTL_S)))
        if session.has_loaded(version.uid):
            want.version.uid = version.uid
        else:
            want.version.CopyFrom(version.proto)
            want.ticket = self._sign_ticket(version)
        session.commands.put_nowait(mesh_pb2.GatewayCommand(want=want))
        self.sent += 1


def _pause_s(session: RunnerSession, uid: str) -> float:
    event = session.models.get(uid)
    if event is None:
        return _ASK_AGAIN_S
    return _ASK_FAILED_AGAIN_S if event.state == gateway_pb2.MODEL_STATE_FAILED else _RENEW_S
