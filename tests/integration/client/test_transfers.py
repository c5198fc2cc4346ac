"""Uploads and downloads over connections that break."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headrace_client import AsyncClient, RetryPolicy, rpcs
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import InternalError, ModelError, RunnerUnavailable
from headrace_common.errors import RunnerUnavailable as Lost
from support.eventually import eventually
from support.scripted_mesh import ScriptedMesh, serving

SOON = RetryPolicy(initial_s=0.01, max_s=0.02)
CONTENT = bytes(range(256)) * (10 << 10)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PART = 1 << 20


class Registry:
    """Stores uploads and serves downloads; loses connections as often as told."""

    def __init__(self, *, losses: int = 0, sha256: str = SHA256, path: str = "model.onnx") -> None:
        self.losses = losses
        self.uploads: list[tuple[models_pb2.UploadHeader, bytes]] = []
        self.offsets: list[int] = []
        self.asked_until_ready = [False, True]
        self._file = models_pb2.ArtifactFile(path=path, size_bytes=len(CONTENT), sha256=sha256)

    async def upload(self, requests: AsyncIterator[bytes]) -> bytes:
        header, received = models_pb2.UploadHeader(), b""
        async for request in requests:
            message = models_pb2.UploadVersionRequest.FromString(request)
            if message.HasField("header"):
                header = message.header
            received += message.chunk
            if received and self.losses:
                self.losses -= 1
                raise Lost("gone")
        self.uploads.append((header, received))
        return models_pb2.UploadVersionResponse(
            version=models_pb2.Version(model=header.model, version=1)
        ).SerializeToString()

    async def download(self, request: bytes) -> AsyncIterator[bytes]:
        offset = models_pb2.DownloadVersionRequest.FromString(request).offset
        self.offsets.append(offset)
        yield models_pb2.DownloadVersionResponse(file=self._file).SerializeToString()
        for start in range(offset, len(CONTENT), PART):
            if self.losses and start > offset:
                break
            yield models_pb2.DownloadVersionResponse(chunk=CONTENT[start : start + PART]).SerializeToString()
        if self.losses:
            self.losses -= 1
            raise Lost("gone")

    async def known(self, request: bytes) -> bytes:
        return open_inference_pb2.ModelReadyResponse(ready=self.asked_until_ready.pop(0)).SerializeToString()

    def mesh(self) -> ScriptedMesh:
        return ScriptedMesh(
            unary={rpcs.MODEL_READY.path: self.known},
            uploads={rpcs.UPLOAD_VERSION.path: self.upload},
            responses={rpcs.DOWNLOAD_VERSION.path: self.download},
        )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_broken_upload_starts_again_with_its_first_byte(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(CONTENT)
    registry, heard = Registry(losses=1), list[tuple[int, int]]()
    async with serving(registry.mesh()) as address, AsyncClient(address, retry=SOON) as client:
        version = await client.models.push(file, name="m", progress=lambda sent, total: heard.append((sent, total)))
    assert version.model == "m"
    ((header, received),) = registry.uploads
    assert (header.sha256, header.size_bytes, header.file_name, received) == (SHA256, len(CONTENT), "m.onnx", CONTENT)
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert [sent for sent, _ in heard].count(0) == 2


@pytest.mark.parametrize("form", ["path", "text", "bytes"])
async def test_a_model_may_be_a_path_or_its_content(form: str, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(CONTENT)
    registry = Registry()
    async with serving(registry.mesh()) as address, AsyncClient(address) as client:
        await client.models.push({"path": file, "text": str(file), "bytes": CONTENT}[form], name="m", version=3)
    ((header, received),) = registry.uploads
    assert received == CONTENT
    assert (header.version, header.file_name) == (3, "" if form == "bytes" else "m.onnx")


async def test_a_push_returns_when_the_gateway_could_serve_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its own two seconds may pass before it asks, where the machine stands still.
    monkeypatch.setattr("headrace_client.async_models._READY_WITHIN_S", 60.0)
    registry = Registry()
    async with serving(registry.mesh()) as address, AsyncClient(address) as client:
        await client.models.push(CONTENT, name="m")
    assert registry.asked_until_ready == []


async def test_a_push_waits_no_longer_than_it_may_for_what_nobody_can_serve() -> None:
    registry = Registry()
    registry.asked_until_ready = [False] * 1000
    loop = asyncio.get_running_loop()
    async with serving(registry.mesh()) as address, AsyncClient(address) as client:
        started_at = loop.time()
        await client.models.push(CONTENT, name="m")
        assert 1.9 < loop.time() - started_at < 30
    assert 2 < len(registry.asked_until_ready) < 1000


@pytest.mark.parametrize(("timeout_s", "left_s"), [(None, 2.0), (1.5, 1.5)], ids=["its own time", "the caller's"])
async def test_a_push_ends_in_time_where_the_gateway_is_silent(timeout_s: float | None, left_s: float) -> None:
    async def silent(request: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    mesh = ScriptedMesh(unary={rpcs.MODEL_READY.path: silent}, uploads={rpcs.UPLOAD_VERSION.path: Registry().upload})
    async with serving(mesh) as address, AsyncClient(address) as client, asyncio.timeout(30):
        assert (await client.models.push(CONTENT, name="m", timeout_s=timeout_s)).version == 1
    asked = [call.left_s or 0 for call in mesh.calls if call.path == rpcs.MODEL_READY.path]
    # gRPC rounds up on the wire; on a busy machine less is left.
    assert len(asked) <= 1 and all(left < left_s + 0.05 for left in asked)


async def test_a_file_that_cant_be_read_is_the_callers_error(tmp_path: Path) -> None:
    registry, file = Registry(), tmp_path / "m.onnx"
    async with serving(registry.mesh()) as address, AsyncClient(address) as client:
        with pytest.raises(FileNotFoundError):
            await client.models.push(file, name="m")
        with pytest.raises(ModelError, match="empty"):
            await client.models.push(b"", name="m")
        file.write_bytes(CONTENT)

        def stop(sent: int, total: int) -> None:
            if sent > PART:
                raise KeyError("the caller's own")

        with pytest.raises(KeyError):
            await client.models.push(file, name="m", progress=stop)
    # To a server the end of a cancelled stream may look like any end; the announced size tells.
    assert all(len(received) < header.size_bytes for header, received in registry.uploads)


async def test_a_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    registry, heard = Registry(losses=2), list[int]()
    async with serving(registry.mesh()) as address, AsyncClient(address, retry=SOON) as client:
        path = await client.models.download("m", tmp_path, progress=lambda received, _: heard.append(received))
    assert (path, path.read_bytes()) == (tmp_path / "model.onnx", CONTENT)
    assert registry.offsets == [0, PART, 2 * PART]
    assert heard == sorted(heard)
    assert heard[-1] == len(CONTENT)


async def test_a_download_may_be_given_a_name(tmp_path: Path) -> None:
    async with serving(Registry().mesh()) as address, AsyncClient(address) as client:
        assert await client.models.download("m", str(tmp_path / "mine")) == tmp_path / "mine"
    assert names(tmp_path) == ["mine"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [({"sha256": "0" * 64}, ModelError), ({"losses": 99}, RunnerUnavailable)],
    ids=["other bytes", "never whole"],
)
async def test_a_download_that_fails_leaves_nothing_behind(
    fault: dict[str, Any], kind: type[Exception], tmp_path: Path
) -> None:
    registry = Registry(**fault)
    async with serving(registry.mesh()) as address, AsyncClient(address, retry=SOON) as client:
        with pytest.raises(kind):
            await client.models.download("m", tmp_path / "model")
    assert names(tmp_path) == []


async def test_a_download_stays_in_its_folder_whatever_the_file_is_called(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    async with serving(Registry(path="../../evil").mesh()) as address, AsyncClient(address) as client:
        assert await client.models.download("m", inside) == inside / "evil"
    async with serving(Registry(path="..").mesh()) as address, AsyncClient(address) as client:
        with pytest.raises(InternalError):
            await client.models.download("m", inside)
    assert names(inside) == ["evil"]


async def test_cancelling_an_upload_reaches_the_mesh(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def upload(requests: AsyncIterator[bytes]) -> bytes:
        async for _ in requests:
            begun.set()
            await asyncio.Event().wait()
        return b""

    mesh = ScriptedMesh(uploads={rpcs.UPLOAD_VERSION.path: upload})
    async with serving(mesh) as address, AsyncClient(address) as client:
        task = asyncio.create_task(client.models.push(CONTENT, name="m"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: mesh.cancelled == 1)
