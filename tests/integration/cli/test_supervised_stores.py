"""PostgreSQL and Valkey as children of a supervisor that is stopped, killed and disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import psutil
import psycopg
import pytest
import redis
from psycopg.conninfo import make_conninfo

from support.folders import open_folder

SUPERVISED = Path(__file__).with_name("supervised.py")


@pytest.fixture
def state() -> Iterator[Path]:
    with open_folder() as made:
        yield made


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, what: str, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SUPERVISED), what, str(state)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.said = self.next()

    def next(self) -> dict[str, Any]:
        """What it says next: names to process ids."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(self.process.stderr.read().decode())
        return cast("dict[str, Any]", json.loads(line))

    def close(self) -> None:
        """End it, and with it all that it started."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def supervise(state: Path) -> Iterator[Callable[[str], Supervised]]:
    started: list[Supervised] = []

    def start(what: str) -> Supervised:
        started.append(Supervised(what, state))
        return started[-1]

    yield start
    for one in started:
        one.close()
    wait_until_gone([pid for one in started for pid in pids(one.said)])


def pids(said: dict[str, Any]) -> list[int]:
    return [value for value in said.values() if isinstance(value, int)] + said.get("workers", [])


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(numbers: list[int], *, within_s: float = 20.0) -> None:
    give_up_at = time.monotonic() + within_s
    while left := [pid for pid in numbers if alive(pid)]:
        assert time.monotonic() < give_up_at, f"still there: {left}"
        time.sleep(0.02)


def test_stores_serve_with_passwords_and_stop_in_order(supervise: Callable[[str], Supervised], state: Path) -> None:
    supervised = supervise("stores")
    url, redis_url = supervised.said["url"], supervised.said["redis"]
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("headrace",)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(make_conninfo(url, password="wrong"))
    with closing(redis.Redis.from_url(redis_url)) as client:
        assert cast("Any", client).ping()
    stranger_url = "redis://" + redis_url.partition("@")[2]
    with closing(redis.Redis.from_url(stranger_url)) as stranger, pytest.raises(redis.AuthenticationError):
        cast("Any", stranger).ping()
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(60) == 0
    wait_until_gone(pids(supervised.said))
    assert "database system is shut down" in (state / "logs" / "postgres.log").read_text()


def test_data_outlives_a_restart_of_the_whole(supervise: Callable[[str], Supervised]) -> None:
    first = supervise("stores")
    with psycopg.connect(first.said["url"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    second = supervise("stores")
    with psycopg.connect(second.said["url"]) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


@pytest.mark.fault
def test_killing_the_supervisor_leaves_no_process(supervise: Callable[[str], Supervised]) -> None:
    supervised = supervise("stores")
    assert len(supervised.said["workers"]) >= 4
    children = psutil.Process(supervised.process.pid).children(recursive=True)
    supervised.process.kill()
    wait_until_gone([*pids(supervised.said), *(child.pid for child in children)], within_s=5.0)


def test_killing_the_supervisor_ends_children_of_its_children(supervise: Callable[[str], Supervised]) -> None:
    supervised = supervise("family")
    assert alive(supervised.said["child"])
    supervised.process.kill()
    wait_until_gone(pids(supervised.said))


def test_a_process_that_dies_takes_its_children_along_and_is_started_again(
    supervise: Callable[[str], Supervised],
) -> None:
    supervised = supervise("family")
    before = supervised.said
    os.kill(before["family"], signal.SIGKILL)
    after = supervised.next()
    while after["family"] == before["family"]:
        after = supervised.next()
    wait_until_gone([before["family"], before["child"]])
    assert alive(after["family"])
    supervised.said = after


@pytest.mark.parametrize("victim", ["postgres", "valkey"])
@pytest.mark.fault
def test_a_killed_store_comes_back_on_its_port(supervise: Callable[[str], Supervised], victim: str) -> None:
    supervised = supervise("stores")
    before = supervised.said
    os.kill(before[victim], signal.SIGKILL)
    after = supervised.next()
    while after[victim] == before[victim]:
        after = supervised.next()
    assert (after["url"], after["redis"]) == (before["url"], before["redis"])
    give_up_at = time.monotonic() + 15
    while True:
        try:
            with psycopg.connect(after["url"], connect_timeout=2) as connection:
                connection.execute("SELECT 1")
            with closing(redis.Redis.from_url(after["redis"])) as client:
                cast("Any", client).ping()
            break
        except (psycopg.OperationalError, redis.ConnectionError):
            assert time.monotonic() < give_up_at
            time.sleep(0.05)


def test_killing_the_guard_does_not_end_its_protection(supervise: Callable[[str], Supervised]) -> None:
    supervised = supervise("family")
    supervisor = psutil.Process(supervised.process.pid)
    (guard,) = [child for child in supervisor.children() if "orphan_guard" in " ".join(child.cmdline())]
    guard.kill()
    wait_until_gone([guard.pid])
    # The next announcement finds the guard gone and starts another one, which hears of everything.
    os.kill(supervised.said["family"], signal.SIGKILL)
    after = supervised.next()
    while after["family"] == supervised.said["family"]:
        after = supervised.next()
    supervised.process.kill()
    wait_until_gone(pids(after))
