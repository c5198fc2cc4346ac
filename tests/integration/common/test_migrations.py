"""Migrations on a real PostgreSQL, alone and in a race."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from headrace_common import catalogue
from headrace_common.errors import InitializationError, StorageUnavailable
from headrace_common.migrations import migrate
from support.ledger import add_revision

VERSION = "SELECT version_num FROM ledger.schema_version"
PROGRAM = """
import sys
from pathlib import Path
from headrace_common.migrations import migrate
migrate(sys.argv[1], service="ledger", versions_dir=Path(sys.argv[2]))
"""


def scalar(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def test_a_fresh_database_gets_schema_role_and_all_revisions(database_url: str, versions_dir: Path) -> None:
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    assert scalar(database_url, VERSION) == "0002"
    assert scalar(database_url, "SELECT ledger.shout('a%b')") == "A%B"
    flags = "SELECT rolsuper OR rolbypassrls OR rolcanlogin FROM pg_roles WHERE rolname = 'headrace_ledger'"
    assert scalar(database_url, flags) is False


def test_migrating_again_changes_nothing_and_a_new_revision_is_added(database_url: str, versions_dir: Path) -> None:
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    epoch = scalar(database_url, "SELECT epoch FROM ledger.notes_revision")
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    add_revision(versions_dir, 3, "CREATE TABLE ledger.more (x int)")
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    assert scalar(database_url, "SELECT epoch FROM ledger.notes_revision") == epoch
    assert scalar(database_url, VERSION) == "0003"
    assert scalar(database_url, "SELECT has_table_privilege('headrace_ledger', 'ledger.more', 'INSERT')") is True


def test_a_failing_revision_leaves_nothing_of_any(database_url: str, versions_dir: Path) -> None:
    add_revision(versions_dir, 3, "CREATE TABLE ledger.more (x int); SELECT 1/0")
    with pytest.raises(InitializationError) as caught:
        migrate(database_url, service="ledger", versions_dir=versions_dir)
    assert caught.value.entry is catalogue.MIGRATION_FAILED
    assert "division" not in caught.value.message
    assert scalar(database_url, "SELECT to_regclass('ledger.notes')") is None
    add_revision(versions_dir, 3, "CREATE TABLE ledger.more (x int)")
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    assert scalar(database_url, VERSION) == "0003"


def test_a_database_newer_than_the_program_is_refused(database_url: str, versions_dir: Path) -> None:
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    for stale in versions_dir.glob("0002_*"):
        stale.unlink()
    with pytest.raises(InitializationError):
        migrate(database_url, service="ledger", versions_dir=versions_dir)
    assert scalar(database_url, VERSION) == "0002"


def test_processes_that_start_at_once_take_turns(database_url: str, versions_dir: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", PROGRAM, database_url, str(versions_dir)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert scalar(database_url, VERSION) == "0002"
    assert scalar(database_url, "SELECT count(*) FROM ledger.notes_revision") == 1


@pytest.mark.parametrize(
    "lock",
    [
        "SELECT pg_advisory_lock(hashtextextended('headrace.ledger', 0))",
        "BEGIN; LOCK TABLE ledger.notes IN ACCESS SHARE MODE",
    ],
)
def test_a_lock_that_another_process_keeps_is_not_waited_for_without_end(
    database_url: str, versions_dir: Path, lock: str
) -> None:
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    add_revision(versions_dir, 3, "ALTER TABLE ledger.notes ADD COLUMN more int")
    with psycopg.connect(database_url, autocommit=True) as keeper:
        keeper.execute(lock.encode())
        with pytest.raises(StorageUnavailable) as caught:
            migrate(database_url, service="ledger", versions_dir=versions_dir, wait_s=0)
        assert caught.value.entry is catalogue.DATABASE_CONFLICT
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    assert scalar(database_url, VERSION) == "0003"


def test_databases_of_one_server_can_be_migrated_at_once(postgres_url: str, versions_dir: Path) -> None:
    names = [f"race_{number}" for number in range(3)]
    with psycopg.connect(postgres_url, autocommit=True) as operator:
        for name in names:
            operator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    urls = [make_conninfo(postgres_url, dbname=name) for name in names]

    def start(url: str) -> int:
        return subprocess.run([sys.executable, "-c", PROGRAM, url, str(versions_dir)], check=False).returncode

    try:
        with ThreadPoolExecutor() as threads:
            assert list(threads.map(start, urls)) == [0, 0, 0]
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as operator:
            for name in names:
                operator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_two_services_keep_their_versions_apart(database_url: str, versions_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    add_revision(other, 1, "CREATE TABLE archive.things (x int)")
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    migrate(database_url, service="archive", versions_dir=other)
    assert scalar(database_url, VERSION) == "0002"
    assert scalar(database_url, "SELECT version_num FROM archive.schema_version") == "0001"
    assert scalar(database_url, "SELECT has_schema_privilege('headrace_archive', 'ledger', 'USAGE')") is False


async def test_a_missing_database_is_typed(versions_dir: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    with pytest.raises(StorageUnavailable) as caught:
        await asyncio.to_thread(migrate, url, service="ledger", versions_dir=versions_dir, wait_s=0.3)
    assert caught.value.entry is catalogue.DATABASE_UNAVAILABLE
