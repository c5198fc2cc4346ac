"""Scopes, failures and cancellation on a real PostgreSQL."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from headrace_common import catalogue
from headrace_common.errors import ConfigError, RetryableError, StorageError, StorageUnavailable
from headrace_common.postgres import Database
from support.eventually import eventually

INSERT = "INSERT INTO notes (tenant_id, name) VALUES (%s, %s)"


async def names(database: Database, tenant: str | None) -> list[str]:
    scope = database.service() if tenant is None else database.tenant(tenant)
    async with scope as connection:
        rows = await (await connection.execute("SELECT name FROM notes ORDER BY name")).fetchall()
    return [row["name"] for row in rows]


async def test_a_tenant_sees_and_writes_only_its_own_rows(database: Database) -> None:
    for tenant, name in (("a", "of a"), ("b", "of b")):
        async with database.tenant(tenant) as connection:
            await connection.execute(INSERT, (tenant, name))
    assert await names(database, "a") == ["of a"]
    assert await names(database, "b") == ["of b"]
    assert await names(database, None) == ["of a", "of b"]
    async with database.tenant("a") as connection:
        changed = await connection.execute("UPDATE notes SET body = 'x'")
        assert changed.rowcount == 1
    with pytest.raises(StorageError):
        async with database.tenant("a") as connection:
            await connection.execute(INSERT, ("b", "smuggled"))
    assert await names(database, "b") == ["of b"]


async def test_a_scope_ends_with_its_transaction(database: Database) -> None:
    async with database.tenant("a") as connection:
        await connection.execute(INSERT, ("a", "one"))
    bare = await database.listen_connection()
    async with bare:
        rows = await (await bare.execute("SELECT * FROM notes")).fetchall()
    assert rows == []


async def test_the_role_owns_nothing_and_cannot_lift_the_policies(database: Database) -> None:
    for statement in (
        "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
        "DROP TABLE notes",
        "SET LOCAL row_security = off; SELECT * FROM notes",
        "CREATE TABLE ledger.mine (x int)",
    ):
        with pytest.raises(StorageError) as caught:
            async with database.tenant("a") as connection:
                await connection.execute(statement)
        assert caught.value.entry is catalogue.DATABASE_FAILED
    async with database.service() as connection:
        row = await (
            await connection.execute(
                "SELECT current_user AS me, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
            )
        ).fetchone()
    assert row == {"me": "headrace_ledger", "rolsuper": False, "rolbypassrls": False}


async def test_an_exception_rolls_the_block_back(database: Database) -> None:
    with pytest.raises(LookupError):
        async with database.tenant("a") as connection:
            await connection.execute(INSERT, ("a", "lost"))
            raise LookupError
    assert await names(database, "a") == []


async def test_a_broken_constraint_is_named_and_not_quoted(database: Database) -> None:
    async with database.tenant("a") as connection:
        await connection.execute(INSERT, ("a", "one"))
    with pytest.raises(StorageError) as caught:
        async with database.tenant("a") as connection:
            await connection.execute(INSERT, ("a", "one"))
    assert caught.value.entry is catalogue.DATABASE_CONSTRAINT
    assert caught.value.context == {"constraint": "notes_pkey"}
    assert "duplicate" not in caught.value.message


async def test_a_slow_statement_ends_at_its_limit(database_url: str, database: Database) -> None:
    async with Database(url=database_url, service="ledger", statement_timeout_s=1.0) as impatient:
        with pytest.raises(StorageUnavailable) as caught:
            async with impatient.service() as connection:
                await connection.execute("SELECT pg_sleep(100)")
        assert caught.value.entry is catalogue.DATABASE_TIMEOUT
        assert isinstance(caught.value, RetryableError)
        assert await impatient.healthy()
    assert await names(database, None) == []


async def test_a_serialization_failure_can_be_retried(database: Database) -> None:
    async with database.tenant("a") as connection:
        await connection.execute(INSERT, ("a", "one"))
    with pytest.raises(StorageUnavailable) as caught:
        async with database.tenant("a") as first:
            await first.execute("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL headrace.tenant_id = 'a'")
            await first.execute("SELECT * FROM notes")
            async with database.tenant("a") as second:
                await second.execute("UPDATE notes SET body = 'second'")
            await first.execute("UPDATE notes SET body = 'first'")
    assert caught.value.entry is catalogue.DATABASE_CONFLICT


async def test_a_cancelled_connection_is_never_reused(database_url: str, database: Database) -> None:
    async with Database(url=database_url, service="ledger", connections_max=1) as small:
        pids: list[int] = []

        async def sleeping() -> None:
            async with small.tenant("a") as connection:
                pids.append(connection.info.backend_pid)
                await connection.execute(INSERT, ("a", "half done"))
                await connection.execute("SELECT pg_sleep(30)")

        task = asyncio.ensure_future(sleeping())
        await eventually(lambda: bool(pids))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with small.tenant("a") as connection:
            assert connection.info.backend_pid != pids[0]
        assert await names(small, "a") == []


async def test_many_cancels_cost_the_pool_no_place(database: Database) -> None:
    async def work(number: int) -> None:
        async with database.tenant("a") as connection:
            await connection.execute("SELECT pg_sleep(0.02)")

    for round_ in range(10):
        tasks = [asyncio.ensure_future(work(number)) for number in range(8)]
        await asyncio.sleep(0.003 * round_)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(4))), 30)


async def test_a_full_pool_is_an_error_with_a_hint_not_a_hang(database_url: str, database: Database) -> None:
    async with Database(url=database_url, service="ledger", connections_max=1, wait_s=0.1) as small, small.service():
        with pytest.raises(StorageUnavailable) as caught:
            await small.service().__aenter__()
    assert caught.value.entry is catalogue.DATABASE_UNAVAILABLE
    assert caught.value.retry_policy.initial_s > 0


async def test_the_pool_recovers_when_the_server_drops_its_connections(database_url: str, database: Database) -> None:
    assert await database.healthy()
    with psycopg.connect(database_url, autocommit=True) as operator:
        operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert await database.healthy()


async def test_a_dropped_connection_inside_a_block_is_unavailable(database_url: str, database: Database) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        async with database.service() as connection:
            with psycopg.connect(database_url, autocommit=True) as operator:
                operator.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
            await connection.execute("SELECT 1")
    assert caught.value.entry is catalogue.DATABASE_UNAVAILABLE
    assert await database.healthy()


async def test_a_snapshot_sees_one_state_and_writes_nothing(database: Database) -> None:
    async with database.service(snapshot=True) as snapshot:
        before = await (await snapshot.execute("SELECT count(*) AS n FROM notes")).fetchone()
        async with database.tenant("a") as connection:
            await connection.execute(INSERT, ("a", "later"))
        after = await (await snapshot.execute("SELECT count(*) AS n FROM notes")).fetchone()
    assert before == after == {"n": 0}
    with pytest.raises(StorageError):
        async with database.service(snapshot=True) as snapshot:
            await snapshot.execute(INSERT, ("a", "never"))


async def test_no_server_and_no_url_are_typed(database_url: str) -> None:
    nowhere = Database(url="postgresql://nobody@127.0.0.1:1/none", service="ledger")
    with pytest.raises(StorageUnavailable) as caught:
        await nowhere.open(wait_s=0.3)
    assert caught.value.entry is catalogue.DATABASE_UNAVAILABLE
    with pytest.raises(ConfigError) as wrong:
        Database(url="postgresql://h/x?no_such_parameter=1", service="ledger")
    assert wrong.value.context == {"variable": "HEADRACE_POSTGRES_URL"}
    with pytest.raises(ValueError, match="tenant"):
        nowhere.tenant("*")


async def test_a_member_that_is_no_superuser_can_run_the_service(
    postgres_url: str, database_url: str, database: Database
) -> None:
    name = f"app_{conninfo_to_dict(database_url)['dbname']}"
    with psycopg.connect(database_url, autocommit=True) as operator:
        operator.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pw'").format(sql.Identifier(name)))
        operator.execute(sql.SQL("GRANT headrace_ledger TO {}").format(sql.Identifier(name)))
    url = make_conninfo(database_url, user=name, password="pw")
    async with Database(url=url, service="ledger") as as_member:
        async with as_member.tenant("a") as connection:
            await connection.execute(INSERT, ("a", "one"))
        assert await names(as_member, "b") == []
    with psycopg.connect(database_url, autocommit=True) as operator:
        operator.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
