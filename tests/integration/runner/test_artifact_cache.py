"""Artefacts fetched over gRPC into a cache on disk: breaks, damage, kills, and several processes at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from headrace.registry.v1.models_pb2 import ArtifactFile, Version
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.grpc_client import Caller, open_channel
from headrace_runner.artifacts.digest import artifact_digest
from headrace_runner.artifacts.disk_cache import ArtifactLease, DiskCache
from headrace_runner.artifacts.file_lock import try_lock
from headrace_runner.artifacts.registry_source import RegistrySource
from headrace_runner.metrics import RunnerMetrics
from support.artifacts import CHUNK_BYTES, TICKET, Artifacts, artifact_service, version_of
from support.eventually import eventually
from support.runner import failure_of

CONTENT = os.urandom(5 * CHUNK_BYTES + 17)


class Cache:
    """A disk cache that is filled from the service."""

    def __init__(self, root: Path, artifacts: Artifacts, source: RegistrySource, bytes_max: int) -> None:
        self.root = root
        self.artifacts = artifacts
        self.source = source
        self.metrics = RunnerMetrics(registry=CollectorRegistry())
        self.disk = DiskCache(root=root, bytes_max=bytes_max, metrics=self.metrics)
        self.disk.open()

    async def lease(self, **files: bytes) -> ArtifactLease:
        """An artefact whose files are named like the arguments."""
        self.artifacts.files.update(files)
        return await self.disk.lease(list(version_of("m", files).files), self._read)

    def _read(self, path: str, offset: int) -> AsyncGenerator[bytes, None]:
        return self.source.read(ticket=TICKET, path=path, offset=offset)

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir() if path.name != "locks")


@asynccontextmanager
async def cache(root: Path, bytes_max: int = 1 << 30) -> AsyncGenerator[Cache]:
    async with artifact_service() as (artifacts, caller):
        yield Cache(root, artifacts, RegistrySource(caller=caller), bytes_max)


async def test_an_artifact_is_fetched_once(tmp_path: Path) -> None:
    async with cache(tmp_path) as fetched:
        for _ in range(2):
            lease = await fetched.lease(model=CONTENT, weights=b"w")
            assert (lease.folder / "model").read_bytes() == CONTENT
            lease.release()
        assert fetched.artifacts.read == [("model", 0), ("weights", 0)]


async def test_a_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    async with cache(tmp_path) as fetched:
        fetched.artifacts.break_after, fetched.artifacts.breaks = 2, 2
        lease = await fetched.lease(model=CONTENT)
        assert (lease.folder / "model").read_bytes() == CONTENT
        assert fetched.artifacts.read == [("model", 0), ("model", 2 * CHUNK_BYTES), ("model", 4 * CHUNK_BYTES)]


async def test_a_source_that_never_delivers_fails_in_the_end_and_keeps_what_came(tmp_path: Path) -> None:
    async with cache(tmp_path) as fetched:
        fetched.artifacts.break_after, fetched.artifacts.breaks = 0, 100
        error = await failure_of(fetched.lease(model=CONTENT))
        assert error.entry is catalogue.STORAGE_UNAVAILABLE
        assert len(fetched.artifacts.read) == 5
        assert not any(not name.endswith(".partial") for name in fetched.folders())
        fetched.artifacts.breaks = 0
        assert (await fetched.lease(model=CONTENT)).folder.is_dir()


async def test_bytes_that_arrive_damaged_are_fetched_again_and_never_kept(tmp_path: Path) -> None:
    async with cache(tmp_path) as fetched:
        fetched.artifacts.tamper = lambda chunk: bytes(len(chunk))
        error = await failure_of(fetched.lease(model=CONTENT))
        assert error.entry is catalogue.OBJECT_CORRUPT
        assert len(fetched.artifacts.read) == 2
        fetched.artifacts.tamper = lambda chunk: chunk + b"more"
        error = await failure_of(fetched.lease(model=CONTENT))
        assert error.entry is catalogue.OBJECT_CORRUPT
        assert not [name for name in fetched.folders() if not name.endswith(".partial")]
        fetched.artifacts.tamper = None
        assert ((await fetched.lease(model=CONTENT)).folder / "model").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"?" + content[1:], lambda _: None])
async def test_a_damaged_file_in_the_cache_is_noticed_and_fetched_again(tmp_path: Path, damage) -> None:
    async with cache(tmp_path) as fetched:
        lease = await fetched.lease(model=CONTENT)
        lease.release()
        damaged = damage(CONTENT)
        if damaged is None:
            (lease.folder / "model").unlink()
        else:
            (lease.folder / "model").write_bytes(damaged)
        again = await fetched.lease(model=CONTENT)
        assert (again.folder / "model").read_bytes() == CONTENT
        assert len(fetched.artifacts.read) == 2


async def test_a_partial_download_with_damage_is_thrown_away(tmp_path: Path) -> None:
    async with cache(tmp_path) as fetched:
        digest = artifact_digest(list(version_of("m", {"model": CONTENT}).files))
        for left in (b"wrong bytes", bytes(len(CONTENT) + 1)):
            partial = tmp_path / f"{digest}.partial" / "model"
            partial.parent.mkdir(exist_ok=True)
            partial.write_bytes(left)
            lease = await fetched.lease(model=CONTENT)
            assert (lease.folder / "model").read_bytes() == CONTENT
            lease.release()
            (lease.folder / "model").unlink()


async def test_artifacts_that_nobody_uses_make_room_oldest_first(tmp_path: Path) -> None:
    async with cache(tmp_path, bytes_max=250) as fetched:
        used = await fetched.lease(model=bytes(100))
        old = await fetched.lease(model=b"1" * 100)
        old.release()
        os.utime(used.folder, (1, 1))
        os.utime(old.folder, (2, 2))
        new = await fetched.lease(model=b"2" * 100)
        assert used.folder.is_dir(), "the oldest one is in use"
        assert not old.folder.exists()
        assert new.folder.is_dir()


async def test_an_artifact_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    async with cache(tmp_path, bytes_max=99) as fetched:
        error = await failure_of(fetched.lease(model=bytes(100)))
        assert error.entry is catalogue.DISK_FULL
        assert "99" in error.message


async def test_a_lease_that_fails_leaves_the_artifact_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> None:
        raise PermissionError

    async with cache(tmp_path) as fetched:
        (await fetched.lease(model=CONTENT)).release()
        with monkeypatch.context() as patched:
            patched.setattr("headrace_runner.artifacts.disk_cache.os.utime", refused)
            error = await failure_of(fetched.lease(model=CONTENT))
        assert error.entry is catalogue.STORAGE_UNAVAILABLE
        (name,) = fetched.folders()
        alone = try_lock(tmp_path / "locks" / f"{name}.read", exclusive=True)
        assert alone is not None
        alone.release()


async def test_a_disk_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    async with cache(tmp_path) as fetched:
        (tmp_path / "locks").rmdir()
        error = await failure_of(fetched.lease(model=CONTENT))
        assert (error.entry, error.retryable) == (catalogue.STORAGE_UNAVAILABLE, True)


async def test_a_registry_that_is_away_is_named() -> None:
    channel = open_channel("127.0.0.1:1")
    try:
        source = RegistrySource(caller=Caller(channel=channel))
        with pytest.raises(HeadraceError) as caught:
            await anext(source.read(ticket=TICKET, path="model", offset=0))
    finally:
        await channel.close()
    assert caught.value.entry is catalogue.REGISTRY_UNAVAILABLE


async def test_two_caches_on_one_folder_fetch_an_artifact_once(tmp_path: Path) -> None:
    async with cache(tmp_path) as one:
        other = Cache(tmp_path, one.artifacts, one.source, 1 << 30)
        leases = await asyncio.gather(*(each.lease(model=CONTENT) for each in (one, other) for _ in range(3)))
        assert len({lease.folder for lease in leases}) == 1
        assert one.artifacts.read == [("model", 0)]


DOWNLOADER = """
import asyncio, sys
from pathlib import Path
from headrace_common.grpc_client import Caller, open_channel
from headrace_runner.artifacts.registry_source import RegistrySource
from prometheus_client import CollectorRegistry
from headrace_runner.artifacts.disk_cache import DiskCache
from headrace_runner.metrics import RunnerMetrics
from headrace.registry.v1.models_pb2 import Version

async def main():
    source = RegistrySource(caller=Caller(channel=open_channel(sys.argv[1])))
    disk = DiskCache(root=Path(sys.argv[2]), bytes_max=1 << 30, metrics=RunnerMetrics(registry=CollectorRegistry()))
    disk.open()
    files = Version.FromString(bytes.fromhex(sys.argv[3])).files
    await disk.lease(list(files), lambda path, offset: source.read(ticket="ticket", path=path, offset=offset))

asyncio.run(main())
"""


def start_downloader(address: str, root: Path, version: Version) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", DOWNLOADER, address, str(root), version.SerializeToString().hex()]
    return subprocess.Popen(argv)


async def test_a_process_killed_in_a_download_leaves_its_part_to_the_next_and_holds_no_lock(tmp_path: Path) -> None:
    content = os.urandom(200 * CHUNK_BYTES)
    version = version_of("m", {"model": content})
    async with artifact_service() as (artifacts, caller):
        artifacts.files["model"] = content
        # The stream stalls for good once a good part has gone out, so the kill lands in the middle.
        halfway = asyncio.Event()
        artifacts.hold_after, artifacts.held = 100, halfway
        process = start_downloader(artifacts.address, tmp_path, version)
        await asyncio.wait_for(halfway.wait(), 60)
        partial = tmp_path / f"{artifact_digest(list(version.files))}.partial" / "model"
        await eventually(lambda: partial.exists() and partial.stat().st_size > 20 * CHUNK_BYTES)
        process.send_signal(signal.SIGKILL)
        process.wait()
        artifacts.hold_after = 0
        fetched = Cache(tmp_path, artifacts, RegistrySource(caller=caller), 1 << 30)
        lease = await fetched.lease(model=content)
        assert (lease.folder / "model").read_bytes() == content
        assert artifacts.read[-1][1] >= 20 * CHUNK_BYTES, "it went on where the killed process was"


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "", ".", "a//b"])
def test_a_path_that_leaves_the_artifact_is_refused(path: str) -> None:
    file = ArtifactFile(path=path, size_bytes=1, sha256="0" * 64)
    with pytest.raises(HeadraceError) as caught:
        artifact_digest([file])
    assert caught.value.entry is catalogue.MODEL_FILE_INVALID


def test_an_artifacts_digest_depends_on_paths_and_contents_only() -> None:
    one, other = version_of("a", {"m": b"1", "n": b"2"}), version_of("b", {"n": b"2", "m": b"1"})
    assert artifact_digest(list(one.files)) == artifact_digest(list(other.files))
    assert artifact_digest(list(one.files)) != artifact_digest(list(version_of("a", {"m": b"1"}).files))
