"""PostgreSQL or the object store goes away: callers are told to try again, and it goes on by itself afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from headrace.registry.v1 import models_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, StorageUnavailable
from headrace_common.grpc_client import open_channel
from support import onnx_models
from support.eventually import eventually
from support.quota import Keys
from support.registry import ACME, RegistryClient, RunningRegistry, listening_registry, running_registry
from support.restartable_postgres import RestartablePostgres

CONTENT = onnx_models.tiny()


async def uploaded_in_time(client: RegistryClient, content: bytes, within_s: float = 60.0) -> pb.Version:
    """Uploads as a client does that repeats what is refused as UNAVAILABLE."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await client.upload(content)
            except StorageUnavailable:
                await asyncio.sleep(0.1)


@pytest.mark.fault
async def test_database_goes_away_and_comes_back(postgres: RestartablePostgres, keys: Keys, tmp_path: Path) -> None:
    await asyncio.to_thread(postgres.start)
    async with running_registry(postgres.url, keys, tmp_path) as registry:
        client = registry.client
        await client.upload(CONTENT)
        async with aclosing(client.watch()) as feed:
            assert (await anext(feed)).revision == 1
            await asyncio.to_thread(postgres.stop)
            for attempt in (
                client.call(ACME, pb.GetModelRequest(name="m")),
                client.upload(CONTENT),
                client.download(ACME, pb.DownloadVersionRequest(model="m")),
            ):
                with pytest.raises(StorageUnavailable) as failure:
                    await attempt
                assert failure.value.entry == catalogue.DATABASE_UNAVAILABLE
            assert registry.spooled_files() == []
            await asyncio.to_thread(postgres.start)
            assert (await uploaded_in_time(client, onnx_models.tiny(seed=1))).version == 2
            async with asyncio.timeout(20):
                async for message in feed:
                    if message.revision == 2:
                        assert message.entries[0].version.version == 2
                        break


async def test_service_that_starts_before_its_database_serves_once_it_is_there(
    postgres: RestartablePostgres, keys: Keys, tmp_path: Path
) -> None:
    async with listening_registry(postgres.url, keys, tmp_path) as registry:
        preparing = asyncio.ensure_future(registry.service.prepare())
        with pytest.raises(StorageUnavailable):
            await registry.client.call(ACME, pb.GetModelRequest(name="m"))
        assert not preparing.done()
        await asyncio.to_thread(postgres.start)
        await preparing
        assert (await registry.client.upload(CONTENT)).version == 1


async def test_object_store_goes_away_and_comes_back(registry: RunningRegistry) -> None:
    client = registry.client
    away = registry.storage.with_name("away")
    await client.upload(CONTENT)
    registry.storage.rename(away)
    registry.storage.write_text("not a folder")
    try:
        with pytest.raises(HeadraceError) as failure:
            await client.upload(onnx_models.tiny(seed=1), model="n")
        assert failure.value.entry == catalogue.STORAGE_UNAVAILABLE
        assert failure.value.retryable
    finally:
        registry.storage.unlink()
        away.rename(registry.storage)
    models: pb.ListModelsResponse = await client.call(ACME, pb.ListModelsRequest())
    assert [model.name for model in models.models] == ["m"]
    assert (await client.upload(onnx_models.tiny(seed=1), model="n")).version == 1


async def test_orderly_stop_finishes_what_runs_and_exits_with_zero(
    database_url: str, keys: Keys, tmp_path: Path
) -> None:
    environment = {
        "HEADRACE_POSTGRES_URL": database_url,
        "HEADRACE_STORAGE_URL": str(tmp_path / "artefacts"),
        "HEADRACE_PRINCIPAL_JWKS_FILE": str(keys.published),
        "HEADRACE_STATE_DIR": str(tmp_path / "state"),
        "HEADRACE_READY_FILE": str(tmp_path / "ready.json"),
        "HEADRACE_SHUTDOWN_GRACE_S": "60",
        "PATH": os.environ.get("PATH", ""),
    }
    process = subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time that matters here
        [sys.executable, "-m", "headrace_registry"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await eventually((tmp_path / "ready.json").exists, within_s=60)
        ready = json.loads((tmp_path / "ready.json").read_text())
        assert (ready["name"], ready["pid"]) == ("registry", process.pid)
        async with open_channel(ready["grpc"], own_connection=True) as channel:
            client = RegistryClient(channel=channel, signer=keys.signer)
            content = onnx_models.weighty(9 << 20)
            await client.upload(content)
            async with aclosing(client.watch()) as feed:
                await anext(feed)
                downloading = asyncio.ensure_future(client.download(ACME, pb.DownloadVersionRequest(model="m")))
                await asyncio.sleep(0)
                await client.call(ACME, pb.GetModelRequest(name="m"))
                process.send_signal(signal.SIGTERM)
                _, received = await downloading
                assert received == content
                # The feed ends without an error, although nobody asked it to.
                async with asyncio.timeout(60):
                    assert [message.revision async for message in feed if message.entries] == []
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert list((tmp_path / "state" / "uploads").iterdir()) == []
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("missing", "variable"),
    [
        ("postgres_url", "HEADRACE_POSTGRES_URL"),
        ("storage_url", "HEADRACE_STORAGE_URL"),
        ("principal_jwks_file", "HEADRACE_PRINCIPAL_JWKS_FILE"),
    ],
)
async def test_missing_setting_is_named(keys: Keys, tmp_path: Path, missing: str, variable: str) -> None:
    with pytest.raises(HeadraceError, match=variable) as failure:
        async with listening_registry("postgresql://127.0.0.1/x", keys, tmp_path, **{missing: None}):
            pass
    assert failure.value.entry == catalogue.SETTING_MISSING
