"""Shares of gateways in PostgreSQL: never more than the whole, whatever was heard of whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import tuple_row

GATEWAYS: tuple[str, ...] = ("a", "b", "c", "d")
ACTS = ("renew", "renew", "lose", "leave")


@pytest.fixture
def database(quota_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection as the service has it: its role, in its own scope."""
    with psycopg.connect(quota_database_url, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("SET ROLE headrace_quota")
        connection.execute("SET headrace.tenant_id = '*'")
        yield connection


def renew(database: psycopg.Connection[Any], gateway: str, reported: float) -> tuple[float, float, float]:
    """Share, what counts of it, and the sum of that."""
    row = database.execute(
        "SELECT share, counted, total FROM quota.renew_gateway(%s, %s, 300)", (gateway, reported)
    ).fetchone()
    assert row is not None
    return row


@given(
    st.lists(st.tuples(st.sampled_from(GATEWAYS), st.sampled_from(["renew", "renew", "lose", "leave"])), max_size=40)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_gateways_believe_to_have_is_never_more_than_the_whole(
    database: psycopg.Connection[Any], steps: list[tuple[str, str]]
) -> None:
    database.execute("DELETE FROM quota.lease_gateways")
    believed = dict.fromkeys(GATEWAYS, 0.0)
    for gateway, act in steps:
        if act == "leave":
            database.execute("SELECT quota.leave_gateway(%s)", (gateway,))
            believed[gateway] = 0.0
            continue
        share, counted, total = renew(database, gateway, believed[gateway])
        assert counted >= believed[gateway]
        assert total <= 1
        if act == "renew":
            believed[gateway] = share
        assert sum(believed.values()) <= 1


def test_gateways_that_report_come_to_equal_shares(database: psycopg.Connection[Any]) -> None:
    believed = dict.fromkeys(GATEWAYS, 0.0)
    for _ in range(3):
        for gateway in GATEWAYS:
            believed[gateway] = renew(database, gateway, believed[gateway])[0]
    assert list(believed.values()) == [0.25] * 4


def test_a_gateway_that_is_not_seen_any_more_makes_room(database: psycopg.Connection[Any]) -> None:
    assert renew(database, "a", 0.0)[0] == 1
    database.execute("UPDATE quota.lease_gateways SET seen_at = now() - interval '301 s'")
    assert renew(database, "b", 0.0)[0] == 1


def test_a_tenant_sees_its_own_slices_and_no_gateway(database: psycopg.Connection[Any]) -> None:
    renew(database, "a", 0.0)
    for tenant in ("acme", "globex"):
        database.execute("INSERT INTO quota.tenants (id, display_name) VALUES (%s, %s)", (tenant, tenant))
        database.execute(
            "INSERT INTO quota.calendar_leases "
            "(tenant_id, model, resource, time_window, window_start, gateway_id, held) "
            "VALUES (%s, '', 'REQUESTS', 'HOUR', quota.window_start('HOUR', now()), 'a', 5)",
            (tenant,),
        )
    database.execute("SET headrace.tenant_id = 'acme'")
    assert database.execute("SELECT tenant_id FROM quota.calendar_leases").fetchall() == [("acme",)]
    assert not database.execute("SELECT 1 FROM quota.lease_gateways").fetchall()


def test_closing_gives_back_what_was_held_and_expiry_only_what_nobody_uses(
    database: psycopg.Connection[Any],
) -> None:
    renew(database, "living", 0.0)
    database.execute("INSERT INTO quota.tenants (id, display_name) VALUES ('acme', 'acme')")
    for gateway in ("living", "lost", "closed"):
        database.execute(
            "INSERT INTO quota.calendar_leases "
            "(tenant_id, model, resource, time_window, window_start, gateway_id, held, updated_at) VALUES "
            "('acme', '', 'REQUESTS', 'HOUR', quota.window_start('HOUR', now()), %s, 5, now() - interval '301 s')",
            (gateway,),
        )
    database.execute("SELECT quota.close_leases('closed')")
    database.execute("SELECT quota.expire_leases(300)")
    assert database.execute("SELECT gateway_id FROM quota.calendar_leases").fetchall() == [("living",)]
