"""What is told to quota of runners and keys."""

from __future__ import annotations

from uuid import uuid4

from headrace.quota.internal.v1.usage_ingest_pb2 import KeyUse
from headrace.quota.v1.usage_pb2 import RunnerEvent
from headrace_common.principal import Principal
from headrace_common.testing import FakeClock
from headrace_gateway.accounting.key_uses import KeyUses
from headrace_gateway.accounting.runner_history import RunnerHistory
from support.failing_runners import heartbeat
from support.gateway_core import GatewayCore


class Listener:
    """A gateway whose runners' events are kept."""

    def __init__(self) -> None:
        self.core = GatewayCore()
        self.events: list[RunnerEvent] = []
        RunnerHistory(
            directory=self.core.directory, gateway_id="gateway-0.a", tell=self.events.append, clock=self.core.clock
        )

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(event.runner_id.partition(".")[0], event.event) for event in self.events]


def test_a_runner_comes_and_leaves() -> None:
    listener = Listener()
    runner = listener.core.join("runner-0")
    runner.loaded(listener.core.register("m"))
    runner.session.release()
    listener.core.directory.remove(runner.session)
    assert listener.told == [("runner-0", "connected"), ("runner-0", "draining"), ("runner-0", "left")]
    first = listener.events[0]
    assert (first.gateway_id, first.device_type, first.runner_id) == ("gateway-0.a", "cpu", runner.session.id)
    assert first.event_time.ToDatetime() == listener.core.clock.now().replace(tzinfo=None)


def test_a_runner_falls_silent_recovers_and_is_lost() -> None:
    listener = Listener()
    session = listener.core.join("runner-0").session
    listener.core.clock.advance(2.5)
    session.check_heartbeat()
    assert listener.events[-1].detail == "its heartbeats stopped"
    session.on_event(heartbeat())
    listener.core.clock.advance(6)
    session.check_heartbeat()
    listener.core.directory.remove(session)
    assert [event for _, event in listener.told] == ["connected", "ejected", "recovered", "lost"]


def test_a_runner_that_is_ejected_for_its_answers_says_so() -> None:
    listener = Listener()
    session = listener.core.join("runner-0").session
    session.eject()
    session.restore()
    assert [event for _, event in listener.told] == ["connected", "ejected", "recovered"]
    assert "answers" in listener.events[1].detail


def test_a_runner_that_connects_again_was_lost() -> None:
    listener = Listener()
    listener.core.join("runner-0")
    listener.core.join("runner-0")
    assert [event for _, event in listener.told] == ["connected", "lost", "connected"]


def test_a_use_of_a_key_is_told_at_most_once_a_minute() -> None:
    clock = FakeClock()
    told: list[KeyUse] = []
    uses = KeyUses(tell=told.append, clock=clock)
    key, other = (
        Principal(tenant_id="acme", roles=frozenset({"user"}), key_id=str(uuid4()), subject="key") for _ in range(2)
    )
    for _ in range(3):
        uses.used(key)
    uses.used(other)
    assert [use.key_id for use in told] == [key.key_id, other.key_id]
    clock.advance(59)
    uses.used(key)
    assert len(told) == 2
    clock.advance(2)
    uses.used(key)
    assert (told[-1].key_id, told[-1].tenant_id) == (key.key_id, "acme")
    assert told[-1].use_time.ToDatetime() == clock.now().replace(tzinfo=None)


def test_credentials_that_are_no_keys_of_the_database_are_not_told() -> None:
    told: list[KeyUse] = []
    uses = KeyUses(tell=told.append, clock=FakeClock())
    for key_id in ("community", ""):
        uses.used(Principal(tenant_id="community", roles=frozenset({"user"}), key_id=key_id))
    assert told == []
