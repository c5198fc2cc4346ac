"""A runner that takes no calls for a while, for one reason or two."""

from __future__ import annotations

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_gateway.mesh.runner_session import HEARTBEAT_TIMEOUT_S, RunnerSession
from support.fleet import UID, Fleet

EJECTED = gateway_pb2.RUNNER_STATE_EJECTED
READY = gateway_pb2.RUNNER_STATE_READY


def fall_silent(fleet: Fleet, session: RunnerSession) -> None:
    fleet.clock.advance(HEARTBEAT_TIMEOUT_S + 0.1)
    session.check_heartbeat()


async def test_heartbeats_alone_do_not_undo_an_ejection() -> None:
    fleet = Fleet()
    session = fleet.join("a")
    session.eject()
    fleet.heartbeat(session)
    assert session.state == EJECTED
    assert fleet.choose() is None
    session.restore()
    assert session.state == READY
    assert fleet.choose() is session


async def test_silent_runner_comes_back_with_its_first_heartbeat() -> None:
    fleet = Fleet()
    session = fleet.join("a")
    fall_silent(fleet, session)
    assert session.state == EJECTED
    fleet.heartbeat(session)
    assert session.state == READY
    assert session.work.version(UID).ready_at == fleet.clock.monotonic()


async def test_both_reasons_must_be_gone() -> None:
    fleet = Fleet()
    session = fleet.join("a")
    session.eject()
    fall_silent(fleet, session)
    session.restore()
    assert session.state == EJECTED
    fleet.heartbeat(session)
    assert session.state == READY
    fall_silent(fleet, session)
    session.eject()
    fleet.heartbeat(session)
    assert session.state == EJECTED


async def test_calls_fail_over_from_a_silent_runner_once_and_stay_with_an_ejected_one() -> None:
    fleet = Fleet()
    session = fleet.join("a")
    call = fleet.send(session)
    session.eject()
    assert call.outcomes == []
    fall_silent(fleet, session)
    assert call.reason == "RUNNER_LOST"
    session.check_heartbeat()
    assert len(call.outcomes) == 1


async def test_a_draining_runner_that_falls_silent_gives_its_calls_up_as_soon_as_any_other() -> None:
    fleet = Fleet()
    session = fleet.join("a")
    call = fleet.send(session)
    session.drain()
    fall_silent(fleet, session)
    assert call.reason == "RUNNER_LOST"
    assert session.state == gateway_pb2.RUNNER_STATE_DRAINING


async def test_draining_runner_is_not_called_back_by_anything() -> None:
    fleet = Fleet()
    session = fleet.join("a")
    session.drain()
    session.eject()
    session.restore()
    fleet.heartbeat(session)
    assert session.state == gateway_pb2.RUNNER_STATE_DRAINING


async def test_calls_end_in_the_counts_however_they_end() -> None:
    fleet = Fleet()
    session = fleet.join("a")
    answered, cancelled, unsent, lost = (fleet.send(session) for _ in range(4))
    session.calls.leave(unsent.id)
    assert session.work.version(UID).in_flight == 3
    session.calls.next_small_frame()
    session.calls.leave(cancelled.id)
    assert session.work.version(UID).in_flight == 3, "the runner still works on it"
    fleet.finish(session, answered)
    fleet.finish(session, cancelled)
    assert session.work.version(UID).in_flight == 1
    session.close()
    assert lost.reason == "RUNNER_LOST"
    assert (session.work.in_flight, session.work.version(UID).in_flight) == (0, 0)
