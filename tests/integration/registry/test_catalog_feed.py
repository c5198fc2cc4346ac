"""The catalogue feed: a snapshot, then each change once, in order and without a gap, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import psycopg
import pytest

from headrace.registry.internal.v1 import catalog_pb2 as pb
from headrace.registry.v1 import models_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.grpc_client import Caller
from headrace_common.principal import PRINCIPAL_KEY
from headrace_registry.app import AUDIENCE
from headrace_registry.catalog_feed_servicer import CATALOG_FEED_SERVICE
from support import onnx_models
from support.quota import Keys
from support.registry import ACME, GLOBEX, RegistryClient, RunningRegistry, member_of, running_registry

CONTENT = onnx_models.tiny()


async def snapshot(stream: AsyncIterator[pb.WatchCatalogResponse]) -> list[pb.WatchCatalogResponse]:
    pages: list[pb.WatchCatalogResponse] = []
    async for message in stream:
        assert message.snapshot
        pages.append(message)
        if message.snapshot_complete:
            break
    return pages


async def changes(stream: AsyncIterator[pb.WatchCatalogResponse], *, until: int) -> list[pb.WatchCatalogResponse]:
    found: list[pb.WatchCatalogResponse] = []
    async with asyncio.timeout(60):
        async for message in stream:
            assert not message.snapshot
            if message.entries:
                found.append(message)
            if message.revision >= until:
                break
    return found


async def test_snapshot_has_what_can_be_served_of_every_tenant(client: RegistryClient) -> None:
    await client.upload(CONTENT, version=1)
    kept = await client.upload(CONTENT, version=2)
    foreign = await client.upload(CONTENT, principal=GLOBEX)
    await client.call(ACME, models_pb2.ArchiveVersionRequest(model="m", version=1))
    async with aclosing(client.watch()) as stream:
        (page,) = await snapshot(stream)
    assert page.revision == 4
    assert [(entry.tenant_id, entry.version) for entry in page.entries] == [("acme", kept), ("globex", foreign)]


async def test_changes_follow_with_the_version_as_it_is(client: RegistryClient) -> None:
    async with aclosing(client.watch()) as stream:
        (page,) = await snapshot(stream)
        assert (page.revision, list(page.entries)) == (0, [])
        version = await client.upload(CONTENT)
        (made,) = await changes(stream, until=1)
        assert [(entry.tenant_id, entry.version) for entry in made.entries] == [("acme", version)]
        await client.call(ACME, models_pb2.ArchiveVersionRequest(model="m", version=1))
        (archived,) = await changes(stream, until=2)
        assert archived.entries[0].version.state == models_pb2.VERSION_STATE_ARCHIVED
        assert archived.entries[0].version.uid == version.uid


async def test_what_changes_nothing_makes_no_revision(client: RegistryClient) -> None:
    await client.upload(CONTENT, version=1)
    await client.upload(CONTENT, version=1)
    await client.call(ACME, models_pb2.CreateModelRequest(name="empty"))
    for _ in range(2):
        await client.call(ACME, models_pb2.ArchiveVersionRequest(model="m", version=1))
    async with aclosing(client.watch()) as stream:
        assert (await snapshot(stream))[0].revision == 2


async def test_revisions_have_no_gap_under_concurrent_writers(registry: RunningRegistry) -> None:
    writers, each = 8, 2
    client = registry.client

    async def write(writer: int) -> None:
        principal = member_of(f"tenant-{writer}")
        for number in range(1, each + 1):
            await client.upload(CONTENT, principal=principal, version=number)
            await client.call(principal, models_pb2.ArchiveVersionRequest(model="m", version=number))

    async def follow() -> list[pb.WatchCatalogResponse]:
        async with aclosing(client.watch()) as stream:
            await snapshot(stream)
            return await changes(stream, until=writers * each * 2)

    async with aclosing(client.watch()) as first:
        (start,) = await snapshot(first)
        followers = [asyncio.ensure_future(follow()) for _ in range(3)]
        await asyncio.gather(*(write(writer) for writer in range(writers)))
        seen = await changes(first, until=writers * each * 2)
        assert [message.revision for message in seen] == list(range(1, writers * each * 2 + 1))
        assert {message.epoch for message in seen} == {start.epoch}
        for follower in followers:
            revisions = [message.revision for message in await follower]
            assert revisions == list(range(revisions[0], writers * each * 2 + 1))
    states = {entry.version.uid: entry.version.state for message in seen for entry in message.entries}
    assert len(states) == writers * each
    assert set(states.values()) == {models_pb2.VERSION_STATE_ARCHIVED}


async def test_follower_goes_on_where_it_was(client: RegistryClient) -> None:
    for number in (1, 2, 3):
        await client.upload(CONTENT, version=number)
    async with aclosing(client.watch()) as stream:
        epoch = (await snapshot(stream))[0].epoch
    async with aclosing(client.watch(after_revision=1, epoch=epoch)) as stream:
        assert [message.revision for message in await changes(stream, until=3)] == [2, 3]
    async with aclosing(client.watch(after_revision=1, epoch="another history")) as stream:
        assert (await snapshot(stream))[-1].revision == 3
    async with aclosing(client.watch(after_revision=99, epoch=epoch)) as stream:
        assert (await snapshot(stream))[-1].revision == 3


async def test_follower_that_is_too_far_behind_gets_a_snapshot(client: RegistryClient, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as superuser:
        superuser.execute("UPDATE registry.catalog_feed SET changes_kept = 2")
    for number in (1, 2, 3, 4):
        await client.upload(CONTENT, version=number)
    async with aclosing(client.watch()) as stream:
        epoch = (await snapshot(stream))[0].epoch
    async with aclosing(client.watch(after_revision=1, epoch=epoch)) as stream:
        (page,) = await snapshot(stream)
        assert (page.revision, len(page.entries)) == (4, 4)
    async with aclosing(client.watch(after_revision=2, epoch=epoch)) as stream:
        assert [message.revision for message in await changes(stream, until=4)] == [3, 4]


async def test_idle_feed_gives_signs_of_life(database_url: str, keys: Keys, tmp_path: Path) -> None:
    async with (
        running_registry(database_url, keys, tmp_path, feed_heartbeat_s=0.05) as registry,
        aclosing(registry.client.watch()) as stream,
    ):
        (page,) = await snapshot(stream)
        message = await anext(stream)
        assert (message.revision, message.epoch) == (page.revision, page.epoch)
        assert not message.snapshot
        assert not message.entries


async def test_two_processes_tell_the_same_history(
    registry: RunningRegistry, database_url: str, keys: Keys, tmp_path: Path
) -> None:
    async with running_registry(database_url, keys, tmp_path) as second, aclosing(second.client.watch()) as stream:
        await snapshot(stream)
        version = await registry.client.upload(CONTENT)
        (made,) = await changes(stream, until=1)
        assert made.entries[0].version == version


@pytest.mark.parametrize("role", ["viewer", "admin"])
async def test_tenants_may_not_watch(client: RegistryClient, role: str) -> None:
    token = client.signer.sign(member_of("acme", role), audience=AUDIENCE)
    caller = Caller(channel=client.channel)
    stream = caller.stream(
        f"/{CATALOG_FEED_SERVICE}/WatchCatalog",
        pb.WatchCatalogRequest(),
        pb.WatchCatalogResponse,
        metadata=((PRINCIPAL_KEY, token),),
        timeout_s=20,
    )
    with pytest.raises(HeadraceError) as failure:
        await anext(stream)
    assert failure.value.entry == catalogue.TOKEN_INVALID
