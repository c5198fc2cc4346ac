"""Files of an upload on their way through the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from headrace_client.errors import HeadraceError
from headrace_gateway.http.model_upload import SpooledFile
from headrace_gateway.http.uploads import Uploads


async def test_a_file_is_what_came_and_has_no_name_on_disk(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    file = SpooledFile(file_name="m.onnx", folder=tmp_path / "made" / "here")
    with file.content:
        for start in range(0, len(content), 300_007):
            await file.write(content[start : start + 300_007])
        await file.flush()
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        file.content.seek(0)
        assert file.content.read() == content
        assert list((tmp_path / "made" / "here").iterdir()) == []


@pytest.fixture
def full_disk() -> Iterator[IO[bytes]]:
    with Path("/dev/full").open("wb", buffering=0) as disk:
        yield disk


async def test_a_disk_that_takes_nothing_is_told_without_its_paths(tmp_path: Path, full_disk: IO[bytes]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HeadraceError) as caught:
        SpooledFile(file_name="m.onnx", folder=tmp_path / "file" / "folder")
    assert caught.value.reason == "STORAGE_FAILED"
    assert str(tmp_path) not in caught.value.message
    full = SpooledFile(file_name="m.onnx", folder=tmp_path)
    full.content.close()
    full.content = full_disk
    with pytest.raises(HeadraceError) as caught:
        await full.write(bytes(2 << 20))
    assert caught.value.reason == "STORAGE_FAILED"


def test_there_is_room_for_so_many_uploads() -> None:
    uploads = Uploads(folder=Path(), uploads_max=1)
    with uploads.place():
        with pytest.raises(HeadraceError) as caught, uploads.place():
            pass
        assert (caught.value.reason, caught.value.context) == ("SERVER_OVERLOADED", {"limit": "1"})
        assert uploads.open == 1
    with uploads.place():
        assert uploads.open == 1
