"""The servers that other tests stand on are real, share nothing between tests, and are never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from support.postgres import fresh_database

TESTS = Path(__file__).parents[2]


def test_database_is_postgresql_18_and_empty(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert tables == (0,)
        assert connection.info.server_version // 10000 == 18


def test_databases_of_two_tests_share_nothing(database_url: str, postgres_url: str) -> None:
    with fresh_database(postgres_url) as other_url, psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE mine (id int)")
        connection.commit()
        with psycopg.connect(other_url) as other:
            assert other.execute("SELECT to_regclass('mine')").fetchone() == (None,)


def test_valkey_keeps_what_it_is_given(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.set("fixture:probe", b"1", ex=600)
        assert client.get("fixture:probe") == b"1"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that an unprivileged user may traverse, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="headrace-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_servers_die_with_a_killed_test_run(open_folder: Path) -> None:
    script = textwrap.dedent(
        """
        import psutil
        from support.postgres import running_postgres
        from support.valkey import running_valkey
        with running_postgres(), running_valkey():
            print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
            input()
        """
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(TESTS), "TMPDIR": str(open_folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert run.stdout is not None
    assert run.stdin is not None
    with run.stdout, run.stdin:
        servers = [int(pid) for pid in run.stdout.readline().split()]
        assert len(servers) >= 2
        run.send_signal(signal.SIGKILL)
        run.wait()
    give_up_at = time.monotonic() + 30
    while any(map(_alive, servers)) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    assert not [pid for pid in servers if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
