"""One suite over the object store in memory and in a local directory."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from headrace_common import catalogue
from headrace_common.errors import ConfigError, StorageError, StorageUnavailable
from headrace_common.object_store import ObjectStore

KEY = "segments/sha256/ab/abcdef"


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """The same interface over both kinds of storage."""
    return ObjectStore.open("memory://" if request.param == "memory" else f"local://{tmp_path}/objects")


async def test_what_is_put_is_got_whole_in_ranges_and_in_pieces(store: ObjectStore) -> None:
    data = bytes(range(256)) * 40
    assert await store.put_if_absent(KEY, data)
    assert await store.get(KEY) == data
    assert await store.size(KEY) == len(data)
    assert await store.get_range(KEY, start=100, length=50) == data[100:150]
    pieces = [piece async for piece in store.stream(KEY, chunk_bytes=1_000)]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 1_000


@pytest.mark.parametrize(
    ("start", "length", "expected"), [(0, 0, b""), (3, 100, b"de"), (5, 1, b""), (99, 1, b""), (0, 5, b"abcde")]
)
async def test_a_range_ends_with_its_object(store: ObjectStore, start: int, length: int, expected: bytes) -> None:
    await store.put_if_absent(KEY, b"abcde")
    assert await store.get_range(KEY, start=start, length=length) == expected


async def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    assert await store.put_if_absent(KEY, b"")
    assert await store.get(KEY) == b""
    assert [piece async for piece in store.stream(KEY)] == []
    assert await store.exists(KEY)


async def test_an_object_is_never_overwritten(store: ObjectStore) -> None:
    assert await store.put_if_absent(KEY, b"first")
    assert not await store.put_if_absent(KEY, b"second")
    assert await store.get(KEY) == b"first"


async def test_an_object_is_replaced_on_demand(store: ObjectStore) -> None:
    await store.put_if_absent(KEY, b"damaged")
    await store.replace(KEY, b"good")
    assert await store.get(KEY) == b"good"


async def test_of_racing_writers_one_wins_and_its_bytes_stay(store: ObjectStore) -> None:
    writers = [store.put_if_absent(KEY, bytes([number]) * 100_000) for number in range(8)]
    won = await asyncio.gather(*writers)
    assert won.count(True) == 1
    assert await store.get(KEY) == bytes([won.index(True)]) * 100_000


async def test_a_missing_object_is_not_found_everywhere(store: ObjectStore) -> None:
    assert not await store.exists(KEY)
    for reading in (store.get(KEY), store.size(KEY), store.get_range(KEY, start=0, length=1), anext(store.stream(KEY))):
        with pytest.raises(StorageError) as caught:
            await reading
        assert caught.value.entry is catalogue.OBJECT_NOT_FOUND
    await store.delete(KEY)


async def test_deleting_removes_and_may_be_repeated(store: ObjectStore) -> None:
    await store.put_if_absent(KEY, b"x")
    await store.delete(KEY)
    await store.delete(KEY)
    assert not await store.exists(KEY)
    assert await store.put_if_absent(KEY, b"y")


async def test_a_listing_shows_whole_segments_of_the_prefix(store: ObjectStore) -> None:
    for key in ("a/one", "a/two", "ab/three", "b"):
        await store.put_if_absent(key, key.encode())
    assert sorted([found async for found in store.list("a")]) == [("a/one", 5), ("a/two", 5)]
    assert len([found async for found in store.list()]) == 4
    assert [found async for found in store.list("none")] == []


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", ".hidden", "a/./b", "a b", "a\x00"]
)
async def test_a_key_that_could_leave_the_store_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(StorageError):
        await store.put_if_absent(key, b"x")


async def test_a_local_store_survives_reopening_and_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "objects"
    assert await ObjectStore.open(str(directory)).put_if_absent(KEY, b"x")
    assert await ObjectStore.open(f"file://{directory}").get(KEY) == b"x"
    assert await ObjectStore.open(f"local://{directory}").get(KEY) == b"x"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_store_that_breaks_off_is_typed_within_its_time_and_without_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = 0

    async def break_off(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as broken, asyncio.timeout(30):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{broken.sockets[0].getsockname()[1]}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        credentials = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
        store = ObjectStore.open("s3://bucket/prefix", options=credentials)
        for reaching in (store.put_if_absent(KEY, b"x"), store.get(KEY), store.exists(KEY), anext(store.list())):
            tries = 0
            with pytest.raises(StorageUnavailable) as caught:
                await reaching
            assert tries
            assert caught.value.entry is catalogue.STORAGE_UNAVAILABLE
            assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize("url", ["ftp://host/x", "nonsense://", "s3://", "/dev/null/x"])
def test_an_address_that_cannot_be_right_names_the_variable(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ObjectStore.open(url)
    assert caught.value.context == {"variable": "HEADRACE_STORAGE_URL"}
