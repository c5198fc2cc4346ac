"""The process: how it starts, what it says, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psycopg
import pytest

from headrace.quota.v1 import tenants_pb2 as pb
from headrace_common.errors import ConfigError
from headrace_common.grpc_client import open_channel
from headrace_common.secrets import write_secret_file
from headrace_common.settings import load_settings
from headrace_quota.api_keys import KeyMaterial
from headrace_quota.config import QuotaSettings
from support.quota import OPERATOR, Keys, QuotaClient

ADMIN_KEY = KeyMaterial.mint(Random(11))


class Process:
    """A quota process of its own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.ready_file = folder / "ready.json"
        self.log = folder / "log.txt"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        variables = {"HEADRACE_READY_FILE": str(self.ready_file), **variables}
        with self.log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "headrace_quota"],
                env={**inherited, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def ready(self) -> dict[str, str]:
        give_up_at = time.monotonic() + 60
        while not self.ready_file.exists():
            assert self.popen.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up_at, self.log.read_text()
            time.sleep(0.02)
        return json.loads(self.ready_file.read_text())

    def text(self) -> str:
        return self.log.read_text()


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()


@pytest.fixture
def variables(tmp_path: Path, keys: Keys, database_url: str) -> dict[str, str]:
    admin_key_file = tmp_path / "admin.key"
    write_secret_file(admin_key_file, ADMIN_KEY.key)
    return {
        "HEADRACE_POSTGRES_URL": database_url,
        "HEADRACE_PRINCIPAL_JWKS_FILE": str(keys.published),
        "HEADRACE_QUOTA_EMBEDDED_TENANTS": "true",
        "HEADRACE_QUOTA_BOOTSTRAP_ADMIN_KEY_FILE": str(admin_key_file),
    }


def metrics(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - a loopback URL of our own process
        text: str = response.read().decode()
        return text


def test_process_serves_and_ends_with_zero_on_sigterm_while_watched(
    tmp_path: Path, keys: Keys, variables: dict[str, str], processes: list[Process]
) -> None:
    process = Process(tmp_path, **variables, HEADRACE_SHUTDOWN_GRACE_S="60")
    processes.append(process)
    ready = process.ready()
    assert (ready["name"], ready["pid"]) == ("quota", process.popen.pid)

    async def use() -> float:
        async with open_channel(ready["grpc"]) as channel:
            client = QuotaClient(channel=channel, signer=keys.signer)
            feed = client.watch()
            page = await anext(feed)
            assert [tenant.tenant_id for tenant in page.tenants] == ["community", "default"]
            shown = await asyncio.to_thread(metrics, ready["metrics"])
            assert "headrace_quota_feed_revision 3.0" in shown
            assert "headrace_quota_feed_watchers 1.0" in shown
            (key,) = page.keys
            assert (key.tenant_id, key.key_sha256, list(key.roles)) == (
                "default",
                ADMIN_KEY.sha256,
                [pb.ROLE_ADMIN],
            )
            listed = await client.call(OPERATOR, pb.ListApiKeysRequest())
            assert [key.prefix for key in listed.api_keys] == [ADMIN_KEY.prefix]
            made = await client.create_key("community")
            process.popen.send_signal(signal.SIGTERM)
            stopped_s = time.monotonic()
            async for _ in feed:
                pass
            assert made.key.rpartition("_")[2] not in process.text()
            return stopped_s

    stopped_s = asyncio.run(use())
    assert process.popen.wait(60) == 0
    assert time.monotonic() - stopped_s < 30, "half of the grace"
    assert ADMIN_KEY.key not in process.text()


def test_two_processes_start_at_once_on_an_empty_database(
    tmp_path: Path, variables: dict[str, str], processes: list[Process], database_url: str
) -> None:
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        folder.mkdir()
        processes.append(Process(folder, **variables))
    assert len({process.ready()["grpc"] for process in processes}) == 3
    with psycopg.connect(database_url) as superuser:
        assert superuser.execute("SELECT count(*) FROM quota.tenants").fetchone() == (2,)
        assert superuser.execute("SELECT count(*) FROM quota.api_keys").fetchone() == (1,)


def test_process_without_a_database_says_so_and_stops_when_told(
    tmp_path: Path, variables: dict[str, str], processes: list[Process]
) -> None:
    url = "postgresql://postgres:hunter2@127.0.0.1:1/none"
    process = Process(tmp_path, **(variables | {"HEADRACE_POSTGRES_URL": url}))
    processes.append(process)
    give_up_at = time.monotonic() + 60
    while process.text().count("waiting for PostgreSQL") < 2:
        assert process.popen.poll() is None
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
    assert not process.ready_file.exists()
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(60) == 0
    assert "hunter2" not in process.text()


def test_process_that_waits_for_anothers_migration_stops_when_told(
    tmp_path: Path, variables: dict[str, str], processes: list[Process], database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('headrace.quota', 0))")
        process = Process(tmp_path, **variables)
        processes.append(process)
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        give_up_at = time.monotonic() + 60
        while other.execute(waiting).fetchone() == (0,):
            assert process.popen.poll() is None, process.text()
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(60) == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADRACE_POSTGRES_URL", ""),
        ("HEADRACE_PRINCIPAL_JWKS_FILE", ""),
        ("HEADRACE_PRINCIPAL_JWKS_FILE", "/nowhere/keys.jwks"),
    ],
)
def test_wrong_setting_stops_the_start_and_is_named(
    tmp_path: Path, variables: dict[str, str], processes: list[Process], variable: str, value: str
) -> None:
    process = Process(tmp_path, **(variables | {variable: value}))
    processes.append(process)
    assert process.popen.wait(60) == 2
    assert variable in process.text()


@pytest.mark.parametrize(
    ("variable", "value"), [("HEADRACE_QUOTA_ACTIVE_KEYS_MAX", "0"), ("HEADRACE_QUOTA_EMBEDDED_TENANTS", "perhaps")]
)
def test_a_value_that_can_t_be_is_named(variables: dict[str, str], variable: str, value: str) -> None:
    load_settings(QuotaSettings, environ=variables)
    with pytest.raises(ConfigError, match=variable):
        load_settings(QuotaSettings, environ=variables | {variable: value})
