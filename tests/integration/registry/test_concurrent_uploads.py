"""Uploads that race, stop half-way, or are killed: exactly one wins, and nothing half-done is ever visible."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.grpc_client import open_channel
from support import onnx_models
from support.eventually import eventually
from support.quota import Keys
from support.registry import (
    ACME,
    GLOBEX,
    RegistryClient,
    RunningRegistry,
    chunks,
    header,
    listening_registry,
    member_of,
    running_registry,
)


async def versions_of(client: RegistryClient, model: str = "m") -> list[int]:
    try:
        response: pb.ListVersionsResponse = await client.call(ACME, pb.ListVersionsRequest(model=model))
    except HeadraceError as error:
        assert error.entry == catalogue.MODEL_NOT_FOUND
        return []
    return [version.version for version in response.versions]


async def test_of_different_uploads_of_one_version_exactly_one_wins(client: RegistryClient) -> None:
    contents = [onnx_models.tiny(seed=seed) for seed in range(4)]
    results = await asyncio.gather(*(client.upload(content, version=7) for content in contents), return_exceptions=True)
    won = [result for result in results if isinstance(result, pb.Version)]
    lost = [result for result in results if isinstance(result, HeadraceError)]
    assert (len(won), len(lost)) == (1, 3)
    assert {error.entry for error in lost} == {catalogue.MODEL_VERSION_CONFLICT}
    _, received = await client.download(ACME, pb.DownloadVersionRequest(model="m", version=7))
    assert received == contents[results.index(won[0])]


async def test_equal_uploads_of_one_version_all_get_the_same_version(client: RegistryClient) -> None:
    content = onnx_models.tiny()
    versions = await asyncio.gather(*(client.upload(content, version=1) for _ in range(4)))
    assert len({version.uid for version in versions}) == 1
    assert await versions_of(client) == [1]


async def test_uploads_without_a_number_get_numbers_in_a_row(client: RegistryClient) -> None:
    versions = await asyncio.gather(*(client.upload(onnx_models.tiny(seed=seed)) for seed in range(4)))
    assert sorted(version.version for version in versions) == [1, 2, 3, 4]


async def test_repeated_upload_returns_the_version_and_makes_no_revision(client: RegistryClient) -> None:
    content = onnx_models.tiny()
    first = await client.upload(content, version=1)
    assert await client.upload(content, version=1) == first
    assert (await anext(client.watch())).revision == 1


async def test_same_bytes_with_another_manifest_conflict(client: RegistryClient) -> None:
    content = onnx_models.tiny()
    await client.upload(content, version=1)
    with pytest.raises(HeadraceError) as failure:
        await client.upload(content, version=1, manifest=Manifest(description="other"))
    assert failure.value.entry == catalogue.MODEL_VERSION_CONFLICT


async def test_upload_that_conflicts_only_after_its_header_leaves_nothing_in_the_store(
    registry: RunningRegistry,
) -> None:
    content, other = onnx_models.tiny(), onnx_models.tiny(seed=1)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[pb.UploadVersionRequest]:
        yield header(other, version=1)
        arrived.set()
        await go_on.wait()
        for message in chunks(other):
            yield message

    late = asyncio.ensure_future(registry.client.send(ACME, slow()))
    await arrived.wait()
    await eventually(lambda: len(registry.spooled_files()) == 1)
    await registry.client.upload(content, version=1)
    go_on.set()
    with pytest.raises(HeadraceError) as failure:
        await late
    assert failure.value.entry == catalogue.MODEL_VERSION_CONFLICT
    assert len(registry.stored_objects()) == 1


async def test_cancelled_upload_leaves_nothing_visible(registry: RunningRegistry) -> None:
    content = onnx_models.weighty(9 << 20)
    half_sent = asyncio.Event()

    async def half() -> AsyncIterator[pb.UploadVersionRequest]:
        yield header(content)
        for message in chunks(content[: 6 << 20]):
            yield message
        half_sent.set()
        await asyncio.Event().wait()

    upload = asyncio.ensure_future(registry.client.send(ACME, half()))
    await half_sent.wait()
    await eventually(lambda: len(registry.spooled_files()) == 1)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await eventually(lambda: registry.spooled_files() == [])
    assert await versions_of(registry.client) == []
    assert registry.stored_objects() == []
    version = await registry.client.upload(content)
    assert version.version == 1
    assert len(registry.stored_objects()) == 3


async def test_silent_upload_is_ended(database_url: str, keys: Keys, tmp_path: Path) -> None:
    async with running_registry(database_url, keys, tmp_path, upload_idle_s=0.2) as registry:
        content = onnx_models.tiny()

        async def silent() -> AsyncIterator[pb.UploadVersionRequest]:
            yield header(content)
            await asyncio.Event().wait()

        with pytest.raises(HeadraceError) as failure:
            await registry.client.send(ACME, silent())
        assert failure.value.entry == catalogue.CALL_TIMEOUT
        assert registry.spooled_files() == []


async def test_slow_uploads_of_one_tenant_leave_places_for_others(
    database_url: str, keys: Keys, tmp_path: Path
) -> None:
    async with running_registry(database_url, keys, tmp_path, uploads_max=2) as registry:
        content = onnx_models.tiny()
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[pb.UploadVersionRequest]:
            yield header(content)
            await go_on.wait()
            for message in chunks(content):
                yield message

        first = asyncio.ensure_future(registry.client.send(ACME, slow()))
        await eventually(lambda: len(registry.spooled_files()) == 1)
        with pytest.raises(HeadraceError) as failure:
            await registry.client.upload(content)
        assert failure.value.entry == catalogue.CONCURRENCY_LIMIT_EXCEEDED
        assert (await registry.client.upload(content, principal=GLOBEX)).version == 1
        second = asyncio.ensure_future(registry.client.send(GLOBEX, slow()))
        await eventually(lambda: len(registry.spooled_files()) == 2)
        with pytest.raises(HeadraceError) as failure:
            await registry.client.upload(content, principal=member_of("initech"))
        assert failure.value.entry == catalogue.SERVER_OVERLOADED
        go_on.set()
        assert (await first).version == (await second).version == 1


@pytest.mark.fault
async def test_killed_service_leaves_nothing_visible_and_its_files_are_cleared(
    database_url: str, keys: Keys, tmp_path: Path
) -> None:
    content = onnx_models.weighty(9 << 20)
    environment = {
        "HEADRACE_POSTGRES_URL": database_url,
        "HEADRACE_STORAGE_URL": str(tmp_path / "artefacts"),
        "HEADRACE_PRINCIPAL_JWKS_FILE": str(keys.published),
        "HEADRACE_REGISTRY_UPLOAD_DIR": str(tmp_path / "uploads"),
        "HEADRACE_READY_FILE": str(tmp_path / "ready.json"),
        "PATH": os.environ.get("PATH", ""),
    }
    process = subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time that matters here
        [sys.executable, "-m", "headrace_registry"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = await ready_address(tmp_path / "ready.json")
        half_sent = asyncio.Event()

        async def half() -> AsyncIterator[pb.UploadVersionRequest]:
            yield header(content)
            for message in chunks(content[: 6 << 20]):
                yield message
            half_sent.set()
            await asyncio.Event().wait()

        async with open_channel(address, own_connection=True) as channel:
            client = RegistryClient(channel=channel, signer=keys.signer)
            upload = asyncio.ensure_future(client.send(ACME, half()))
            await half_sent.wait()
            await eventually(lambda: bool(spooled(tmp_path)))
            process.send_signal(signal.SIGKILL)
            with pytest.raises(HeadraceError) as failure:
                await upload
            assert failure.value.retryable
    finally:
        process.kill()
        process.wait()
    assert spooled(tmp_path)
    async with listening_registry(database_url, keys, tmp_path) as registry:
        assert registry.spooled_files() == []
        await registry.service.prepare()
        assert await versions_of(registry.client) == []
        assert (await registry.client.upload(content)).version == 1


def spooled(folder: Path) -> list[Path]:
    return [path for path in (folder / "uploads").rglob("*") if path.is_file() and path.stat().st_size]


async def ready_address(ready_file: Path) -> str:
    await eventually(ready_file.exists, within_s=60.0)
    return json.loads(await asyncio.to_thread(ready_file.read_text))["grpc"]
