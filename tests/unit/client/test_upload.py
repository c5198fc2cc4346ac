"""What the SDK sends for a model and the files that go with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from headrace_client.errors import ModelError
from headrace_client.upload import CHUNK_BYTES, Artifact


async def test_files_follow_the_model_as_the_header_says(tmp_path: Path) -> None:
    path = tmp_path / "some.onnx"
    path.write_bytes(b"model" * CHUNK_BYTES)
    (tmp_path / "vocabulary").write_bytes(b"words")
    extras: dict[str, Path | bytes] = {"tokenizer.json": b"{}", "vocabulary": tmp_path / "vocabulary"}
    artifact = await Artifact.of(path, extra_files=extras)
    header = artifact.header(model="m", version=3, manifest=None)
    progress: list[tuple[int, int]] = []
    messages = [one async for one in artifact.messages(header, lambda sent, total: progress.append((sent, total)))]
    assert messages[0].header == header
    assert (header.file_name, header.size_bytes) == ("some.onnx", 5 * CHUNK_BYTES)
    assert [(one.path, one.size_bytes, one.sha256) for one in header.extra_files] == [
        ("tokenizer.json", 2, hashlib.sha256(b"{}").hexdigest()),
        ("vocabulary", 5, hashlib.sha256(b"words").hexdigest()),
    ]
    sent = b"".join(message.chunk for message in messages[1:])
    assert sent == path.read_bytes() + b"{}words"
    assert progress[0] == (0, len(sent))
    assert progress[-1] == (len(sent), len(sent))


async def test_empty_file_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ModelError):
        await Artifact.of(b"model", extra_files={"tokenizer.json": b""})
