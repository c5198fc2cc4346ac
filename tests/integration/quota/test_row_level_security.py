"""The second wall: what the database itself refuses to the service's role, whatever the code above it does."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest
from psycopg import errors

from headrace_common.postgres import service_conninfo
from support.quota import QuotaClient

TABLES: tuple[LiteralString, ...] = ("tenants", "api_keys", "principal_feed", "principal_changes")


@pytest.fixture(autouse=True)
async def two_tenants_with_keys(client: QuotaClient) -> None:
    for tenant_id in ("acme", "rival"):
        await client.create_tenant(tenant_id)
        await client.create_key(tenant_id)


def as_service(database_url: str, scope: str | None = None) -> psycopg.Connection:
    conninfo = service_conninfo(database_url, service="quota", statement_timeout_s=10, lock_timeout_s=5)
    connection = psycopg.connect(conninfo)
    if scope is not None:
        connection.execute("SELECT set_config('headrace.tenant_id', %s, true)", (scope,))
    return connection


def count(connection: psycopg.Connection, table: LiteralString) -> int:
    row = connection.execute(f"SELECT count(*) FROM quota.{table}").fetchone()  # noqa: S608
    assert row is not None
    return row[0]


async def test_service_role_without_a_scope_sees_nothing(database_url: str) -> None:
    with psycopg.connect(database_url) as superuser:
        assert all(count(superuser, table) > 0 for table in TABLES)
    with as_service(database_url) as connection:
        assert [count(connection, table) for table in TABLES] == [0, 0, 0, 0]
    with as_service(database_url, "") as connection:
        assert [count(connection, table) for table in TABLES] == [0, 0, 0, 0]


async def test_tenants_scope_shows_its_own_rows_only(database_url: str) -> None:
    with as_service(database_url, "acme") as connection:
        assert connection.execute("SELECT id FROM quota.tenants").fetchall() == [("acme",)]
        assert connection.execute("SELECT tenant_id FROM quota.api_keys").fetchall() == [("acme",)]
        assert count(connection, "principal_changes") == 0
        assert count(connection, "principal_feed") == 0
    with as_service(database_url, "*") as connection:
        assert [count(connection, table) for table in TABLES] == [3, 2, 1, 5]


async def test_scope_ends_with_its_transaction(database_url: str) -> None:
    with as_service(database_url, "acme") as connection:
        assert count(connection, "tenants") == 1
        connection.commit()
        assert count(connection, "tenants") == 0


async def test_scope_outlives_the_trigger_that_numbers_a_change(database_url: str) -> None:
    with as_service(database_url, "acme") as connection:
        connection.execute("UPDATE quota.tenants SET tier = 'gold'")
        assert count(connection, "tenants") == 1
        assert count(connection, "principal_changes") == 0


async def test_writes_reach_only_the_own_tenant(database_url: str) -> None:
    with as_service(database_url, "acme") as connection:
        changed = connection.execute("UPDATE quota.tenants SET status = 'SUSPENDED' WHERE id <> 'default'")
        assert changed.rowcount == 1
        revoked = connection.execute("UPDATE quota.api_keys SET revoked_at = now()")
        assert revoked.rowcount == 1
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("INSERT INTO quota.tenants (id, display_name) VALUES ('mine', 'Mine')")
    with as_service(database_url, "acme") as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("UPDATE quota.api_keys SET tenant_id = 'rival'")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM quota.tenants",
        "DELETE FROM quota.api_keys",
        "DELETE FROM quota.principal_feed",
        "UPDATE quota.principal_changes SET revision = 7",
        "ALTER TABLE quota.tenants DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenants_scope ON quota.tenants",
        "ALTER TABLE quota.api_keys DISABLE TRIGGER ALL",
        "CREATE TABLE quota.mine (id int)",
    ],
)
async def test_service_role_can_neither_forget_nor_unlock(database_url: str, statement: LiteralString) -> None:
    with as_service(database_url, "*") as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE quota.tenants SET status = 'SUSPENDED' WHERE id = 'default'", "tenants_operators_active"),
        ("UPDATE quota.tenants SET status = 'GONE' WHERE id = 'acme'", "tenants_status_known"),
        ("INSERT INTO quota.tenants (id, display_name) VALUES ('Bad Id', 'x')", "tenants_id_grammar"),
        ("UPDATE quota.tenants SET metadata = '[]'", "tenants_metadata_is_object"),
        ("UPDATE quota.api_keys SET roles = '{root}'", "api_keys_roles_known"),
        ("UPDATE quota.api_keys SET roles = '{}'", "api_keys_roles_known"),
        ("UPDATE quota.api_keys SET key_sha256 = 'short'", "api_keys_digest_length"),
        ("UPDATE quota.api_keys SET key_sha256 = (SELECT min(key_sha256) FROM quota.api_keys)", "api_keys_digest"),
    ],
)
async def test_database_keeps_the_rules_too(database_url: str, statement: LiteralString, constraint: str) -> None:
    with as_service(database_url, "*") as connection, pytest.raises(errors.IntegrityError) as refused:
        connection.execute(statement)
    assert refused.value.diag.constraint_name == constraint


async def test_every_table_column_and_index_says_what_it_is_for(database_url: str) -> None:
    """Partitions are not looked at: nobody but their parent, which is, may touch them."""
    with psycopg.connect(database_url) as superuser:
        silent = superuser.execute(
            """
            SELECT c.relname, a.attname
            FROM pg_class c
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.relnamespace = 'quota'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'schema_version'
                AND NOT c.relispartition
                AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)
            UNION ALL
            SELECT c.relname, '' FROM pg_class c
            JOIN pg_index i ON i.indexrelid = c.oid AND NOT i.indisprimary
            WHERE c.relnamespace = 'quota'::regnamespace AND NOT c.relispartition
                AND obj_description(c.oid, 'pg_class') IS NULL
            UNION ALL
            SELECT c.relname, 'row-level security' FROM pg_class c
            WHERE c.relnamespace = 'quota'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'schema_version'
                AND NOT c.relispartition AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
            """
        ).fetchall()
    assert silent == []
