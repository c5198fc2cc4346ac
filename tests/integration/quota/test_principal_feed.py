"""The principal feed: snapshot, changes without a gap, resumption, signs of life."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import grpc.aio
import psycopg
import pytest

from headrace.quota.internal.v1 import principals_pb2 as feed_pb
from headrace.quota.v1 import tenants_pb2 as pb
from headrace_common.errors import HeadraceError
from headrace_common.feed_follower import FeedEvent, FeedEventKind, FeedFollower
from headrace_common.rpc_status import from_rpc_error
from headrace_common.tasks import TaskGuard
from support.eventually import eventually
from support.quota import OPERATOR, Keys, QuotaClient, RunningQuota, running_quota

Message = feed_pb.WatchPrincipalsResponse
Feed = AsyncIterator[Message]


async def snapshot(feed: Feed) -> list[Message]:
    pages: list[Message] = []
    while not pages or not pages[-1].snapshot_complete:
        pages.append(await asyncio.wait_for(anext(feed), 30))
        assert pages[-1].snapshot
    return pages


async def changes(feed: Feed, count: int) -> list[Message]:
    found: list[Message] = []
    while len(found) < count:
        message = await asyncio.wait_for(anext(feed), 30)
        assert not message.snapshot
        if message.tenants or message.keys:
            found.append(message)
    return found


class Table:
    """A gateway's copy of the feed."""

    def __init__(self, client: QuotaClient) -> None:
        self.tenants: dict[str, int] = {}
        self.keys: dict[str, bool] = {}
        self.applied: list[int] = []
        self.snapshots = 0
        self.follower = FeedFollower[Message](
            name="principals",
            open_stream=lambda revision, epoch: client.watch(after_revision=revision, epoch=epoch),
            read=self._read,
            apply_snapshot=self._replace,
            apply_change=self._apply,
        )

    def _read(self, message: Message) -> FeedEvent:
        if message.snapshot:
            kind = FeedEventKind.SNAPSHOT_COMPLETE if message.snapshot_complete else FeedEventKind.SNAPSHOT_PAGE
        else:
            kind = FeedEventKind.CHANGE if message.tenants or message.keys else FeedEventKind.HEARTBEAT
        return FeedEvent(kind=kind, revision=message.revision, epoch=message.epoch)

    def _replace(self, pages: Sequence[Message]) -> None:
        self.tenants.clear()
        self.keys.clear()
        self.snapshots += 1
        self.applied = [pages[-1].revision]
        for page in pages:
            self._take(page)

    def _apply(self, message: Message) -> None:
        self.applied.append(message.revision)
        self._take(message)

    def _take(self, message: Message) -> None:
        self.tenants.update((tenant.tenant_id, tenant.status) for tenant in message.tenants)
        self.keys.update((key.key_id, key.revoked) for key in message.keys)


async def test_snapshot_holds_all_and_changes_follow_one_by_one(client: QuotaClient) -> None:
    await client.create_tenant("acme")
    made = await client.create_key("acme")
    feed = client.watch()
    (page,) = await snapshot(feed)
    assert [tenant.tenant_id for tenant in page.tenants] == ["acme", "default"]
    assert [key.key_id for key in page.keys] == [made.api_key.id]
    assert page.revision == 3

    await client.call(OPERATOR, pb.SuspendTenantRequest(id="acme"))
    await client.call(OPERATOR, pb.RevokeApiKeyRequest(id=made.api_key.id))
    suspended, revoked = await changes(feed, 2)
    assert (suspended.revision, revoked.revision) == (4, 5)
    assert suspended.tenants[0].status == pb.TENANT_STATUS_SUSPENDED
    assert (revoked.keys[0].key_id, revoked.keys[0].revoked) == (made.api_key.id, True)
    assert not revoked.tenants
    (page,) = await snapshot(client.watch())
    assert [key.revoked for key in page.keys] == [True]


async def test_key_record_holds_what_a_gateway_needs(client: QuotaClient) -> None:
    await client.create_tenant("acme")
    request = pb.CreateApiKeyRequest(tenant_id="acme", roles=[pb.ROLE_MODEL_ADMIN])
    request.expire_time.FromSeconds(4_000_000_000)
    made = await client.call(OPERATOR, request)
    (page,) = await snapshot(client.watch())
    (key,) = page.keys
    assert key.key_sha256 == hashlib.sha256(made.key.encode()).digest()
    assert (key.tenant_id, list(key.roles)) == ("acme", [pb.ROLE_MODEL_ADMIN])
    assert key.expire_time.seconds == 4_000_000_000


async def test_watcher_resumes_after_the_revision_it_has(client: QuotaClient) -> None:
    feed = client.watch()
    (page,) = await snapshot(feed)
    await client.create_tenant("acme")
    (seen,) = await changes(feed, 1)
    await client.create_tenant("rival")
    await client.create_key("rival")
    resumed = client.watch(after_revision=seen.revision, epoch=page.epoch)
    missed = await changes(resumed, 2)
    assert [message.revision for message in missed] == [seen.revision + 1, seen.revision + 2]
    assert missed[0].tenants[0].tenant_id == "rival"


@pytest.mark.parametrize(("revision", "epoch"), [(0, ""), (1, "other"), (10**9, None), (1, "")])
async def test_watcher_with_an_unknown_place_gets_a_snapshot(
    client: QuotaClient, revision: int, epoch: str | None
) -> None:
    (page,) = await snapshot(client.watch())
    feed = client.watch(after_revision=revision, epoch=page.epoch if epoch is None else epoch)
    assert (await snapshot(feed))[0].tenants


async def test_watcher_behind_the_kept_history_gets_a_snapshot(client: QuotaClient, database_url: str) -> None:
    (page,) = await snapshot(client.watch())
    with psycopg.connect(database_url) as superuser:
        superuser.execute("UPDATE quota.principal_feed SET changes_kept = 3")
    for number in range(6):
        await client.create_tenant(f"t{number}")
    with psycopg.connect(database_url) as superuser:
        kept = superuser.execute("SELECT revision FROM quota.principal_changes ORDER BY 1").fetchall()
    assert [revision for (revision,) in kept] == [5, 6, 7]
    assert (await snapshot(client.watch(after_revision=page.revision, epoch=page.epoch)))[0].revision == 7
    followed = await changes(client.watch(after_revision=4, epoch=page.epoch), 3)
    assert [message.revision for message in followed] == [5, 6, 7]


async def test_idle_feed_gives_a_sign_of_life_each_second(client: QuotaClient) -> None:
    feed = client.watch()
    (page,) = await snapshot(feed)
    heard_s: list[float] = []
    for _ in range(4):
        life = await asyncio.wait_for(anext(feed), 30)
        heard_s.append(time.monotonic())
        assert (life.revision, life.epoch) == (page.revision, page.epoch)
        assert not (life.snapshot or life.tenants or life.keys)
    # Three pauses; a busy machine makes some longer, and the one after such a one shorter.
    assert min(after - before for before, after in pairwise(heard_s)) < 1.5
    assert heard_s[-1] - heard_s[0] > 1.5


async def test_change_nobody_is_told_of_makes_no_revision(client: QuotaClient) -> None:
    await client.create_tenant("acme")
    key = await client.create_key("acme")
    for _ in range(2):
        await client.create_tenant("acme")
        await client.call(OPERATOR, pb.ResumeTenantRequest(id="acme"))
        await client.call(OPERATOR, pb.RevokeApiKeyRequest(id=key.api_key.id))
    (page,) = await snapshot(client.watch())
    assert page.revision == 4


async def test_concurrent_writers_make_revisions_without_a_gap(
    client: QuotaClient, database_url: str, keys: Keys
) -> None:
    async with running_quota(database_url, keys) as second:
        feeds = [client.watch(), second.client.watch()]
        places = [(await snapshot(feed))[-1].revision for feed in feeds]

        async def write(writer: QuotaClient, number: int) -> None:
            tenant_id = f"w{number}"
            await writer.create_tenant(tenant_id)
            made = await asyncio.gather(*(writer.create_key(tenant_id) for _ in range(3)))
            await writer.call(OPERATOR, pb.RevokeApiKeyRequest(id=made[0].api_key.id))

        await asyncio.gather(*(write((client, second.client)[n % 2], n) for n in range(16)))
        for feed, place in zip(feeds, places, strict=True):
            told = await changes(feed, 16 * 5)
            assert [message.revision for message in told] == list(range(place + 1, place + 81))
            assert sum(len(message.tenants) for message in told) == 16
            assert len({message.keys[0].key_id for message in told if message.keys}) == 48


async def test_revocation_reaches_every_watcher_within_a_second(client: QuotaClient) -> None:
    await client.create_tenant("acme")
    ids = [(await client.create_key("acme")).api_key.id for _ in range(3)]
    tables = [Table(client) for _ in range(20)]
    took_s: list[float] = []
    async with TaskGuard() as guard:
        for table in tables:
            guard.spawn(table.follower.run(), name="follower")
        await eventually(lambda: all(table.keys.keys() >= set(ids) for table in tables))
        for key_id in ids:
            await client.call(OPERATOR, pb.RevokeApiKeyRequest(id=key_id))
            revoked_s = time.monotonic()
            await eventually(lambda key_id=key_id: all(table.keys[key_id] for table in tables))
            took_s.append(time.monotonic() - revoked_s)
    assert min(took_s) < 1.0, "the best of some: a busy machine may take longer once"


async def test_changes_arrive_by_polling_where_notifications_are_lost(quota: RunningQuota, database_url: str) -> None:
    feed = quota.client.watch()
    (page,) = await snapshot(feed)
    with psycopg.connect(database_url, autocommit=True) as superuser:
        # The trigger's notification goes to nobody: every listener's channel is another one now.
        body = superuser.execute("SELECT pg_get_functiondef('quota.record_principal_change'::regproc)").fetchone()
        assert body is not None
        superuser.execute(body[0].replace("'quota_principals'", "'elsewhere'"))
    await quota.client.create_tenant("acme")
    (change,) = await changes(feed, 1)
    assert change.revision == page.revision + 1


async def test_listening_connection_that_dies_is_replaced(quota: RunningQuota, database_url: str) -> None:
    feed = quota.client.watch()
    await snapshot(feed)
    ending = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    with psycopg.connect(database_url, autocommit=True) as superuser:
        # The service serves before it listens.
        async with asyncio.timeout(30):
            while (ended := superuser.execute(ending).fetchone()) == (0,):
                await asyncio.sleep(0.02)
    assert ended == (1,)
    await quota.client.create_tenant("acme")
    assert (await changes(feed, 1))[0].tenants[0].tenant_id == "acme"


async def test_feed_needs_a_service_token(client: QuotaClient) -> None:
    stream = client.channel.unary_stream("/headrace.quota.internal.v1.PrincipalFeedService/WatchPrincipals")
    for metadata, reason in (((), "CREDENTIAL_MISSING"), (client.token(OPERATOR), "TOKEN_INVALID")):
        call = stream(b"", metadata=metadata, timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        error = from_rpc_error(refused.value)
        assert isinstance(error, HeadraceError)
        assert error.reason == reason


async def test_a_watcher_that_leaves_leaves_nothing_behind(quota: RunningQuota) -> None:
    def watchers() -> float | None:
        return quota.service.metrics.registry.get_sample_value("headrace_quota_feed_watchers")

    tasks = len(asyncio.all_tasks())
    feeds = [quota.client.watch() for _ in range(30)]
    await asyncio.gather(*(snapshot(feed) for feed in feeds))
    assert watchers() == 30
    for feed in feeds:
        await feed.aclose()  # pyright: ignore[reportAttributeAccessIssue]
    await eventually(lambda: watchers() == 0)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
