"""Segments in an object store: found by digest, checked when read, apart by tenant."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.object_store import ObjectStore
from headrace_registry.models import Segment
from headrace_registry.segments import PART_BYTES_MAX, SegmentStore, segment_key


def segment_of(data: bytes) -> Segment:
    return Segment(sha256=hashlib.sha256(data).digest(), size_bytes=len(data))


@pytest.fixture
def objects() -> ObjectStore:
    return ObjectStore.open("memory://")


@pytest.fixture
def store(objects: ObjectStore) -> SegmentStore:
    return SegmentStore(objects=objects, timeout_s=5.0)


async def read(store: SegmentStore, segments: list[Segment], offset: int) -> bytes:
    async with aclosing(store.read("acme", segments, offset=offset)) as parts:
        return b"".join([part async for part in parts])


async def test_segment_is_stored_once(store: SegmentStore) -> None:
    segment = segment_of(b"data")
    assert await store.put("acme", segment, b"data")
    assert not await store.put("acme", segment, b"data")
    assert await store.put("globex", segment, b"data")
    assert await store.get("acme", segment) == b"data"


@pytest.mark.parametrize("damaged", [b"", b"dat", b"DATA", b"data" * 100])
async def test_object_of_other_bytes_is_replaced(store: SegmentStore, objects: ObjectStore, damaged: bytes) -> None:
    segment = segment_of(b"data")
    await objects.put_if_absent(segment_key("acme", segment.sha256), damaged)
    assert await store.put("acme", segment, b"data")
    assert await store.get("acme", segment) == b"data"


async def test_corrupt_and_lost_objects_are_told_apart(store: SegmentStore, objects: ObjectStore) -> None:
    segment = segment_of(b"data")
    with pytest.raises(HeadraceError) as failure:
        await store.get("acme", segment)
    assert failure.value.entry == catalogue.OBJECT_NOT_FOUND
    await objects.put_if_absent(segment_key("acme", segment.sha256), b"DATA")
    with pytest.raises(HeadraceError) as failure:
        await store.get("acme", segment)
    assert failure.value.entry == catalogue.OBJECT_CORRUPT


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6), st.integers(0, 130))
def test_reading_from_any_offset_gives_the_rest(parts: list[bytes], offset: int) -> None:
    async def check() -> None:
        store = SegmentStore(objects=ObjectStore.open("memory://"), timeout_s=5.0)
        segments = [segment_of(part) for part in parts]
        for segment, part in zip(segments, parts, strict=True):
            await store.put("acme", segment, part)
        assert await read(store, segments, offset) == b"".join(parts)[offset:]

    asyncio.run(check())


async def test_parts_are_bounded(store: SegmentStore) -> None:
    data = bytes(3 * PART_BYTES_MAX + 1)
    await store.put("acme", segment_of(data), data)
    sizes = [len(part) async for part in store.read("acme", [segment_of(data)], offset=0)]
    assert sizes == [PART_BYTES_MAX] * 3 + [1]


async def test_nothing_of_a_corrupt_segment_is_sent(store: SegmentStore, objects: ObjectStore) -> None:
    good, bad = segment_of(b"good"), segment_of(b"bad")
    await store.put("acme", good, b"good")
    await objects.put_if_absent(segment_key("acme", bad.sha256), b"BAD")
    received: list[bytes] = []
    with pytest.raises(HeadraceError):
        async for part in store.read("acme", [good, bad], offset=0):
            received.append(part)  # noqa: PERF401 - the failure must not lose what came before
    assert received == [b"good"]


async def test_reader_that_leaves_early_leaves_no_task(store: SegmentStore) -> None:
    parts = [bytes([value]) * 10 for value in range(4)]
    for part in parts:
        await store.put("acme", segment_of(part), part)
    before = asyncio.all_tasks()
    async with aclosing(store.read("acme", [segment_of(part) for part in parts], offset=0)) as reader:
        assert await anext(reader) == parts[0]
    assert asyncio.all_tasks() == before


async def test_store_that_does_not_answer_is_unavailable() -> None:
    class Stuck(ObjectStore):
        async def get(self, key: str) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

    store = SegmentStore(objects=Stuck(backend=ObjectStore.open("memory://")._backend), timeout_s=0.01)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(HeadraceError) as failure:
        await store.get("acme", segment_of(b"x"))
    assert failure.value.entry == catalogue.STORAGE_UNAVAILABLE
