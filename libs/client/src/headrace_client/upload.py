"""The bytes of a model on their way to the registry: digest first, then header and chunks."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from headrace_client import failures
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2, models_pb2
from headrace_client.errors import ModelError

Progress = Callable[[int, int], None]
"""Is told the bytes moved so far and those in all."""

CHUNK_BYTES = 1 << 20
_BYTES_PER_S_MIN = 1 << 20
# For the registry's checks after the last byte.
_CHECK_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file to upload, with what has to be known before its first byte is sent.

    Attributes:
        file_name: Its name inside the artefact; empty lets the registry name it.
        extra_files: Files that are sent after it.
    """

    source: Path | bytes
    file_name: str
    size_bytes: int
    sha256: str
    extra_files: Sequence[Artifact] = ()

    @classmethod
    async def of(
        cls, source: Path | str | bytes, *, file_name: str = "", extra_files: Mapping[str, Path | bytes] | None = None
    ) -> Artifact:
        """Read it, and the files that go with it by their names, once, for their digests.

        Raises:
            OSError: it can't be read.
            ModelError: it is empty, or one of the others is.
        """
        source = Path(source) if isinstance(source, str) else source
        size_bytes, sha256 = await asyncio.to_thread(_measured, source)
        if size_bytes == 0:
            raise ModelError("the file is empty", failures.MODEL_FILE_SIZE_MISMATCH)
        name = file_name or (source.name if isinstance(source, Path) else "")
        extras = [await cls.of(extra, file_name=extra_name) for extra_name, extra in (extra_files or {}).items()]
        return cls(source=source, file_name=name, size_bytes=size_bytes, sha256=sha256, extra_files=extras)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return self.size_bytes + sum(extra.size_bytes for extra in self.extra_files)

    @property
    def timeout_s(self) -> float:
        """Time for an upload over a slow line."""
        return _CHECK_S + self.total_bytes / _BYTES_PER_S_MIN

    def header(self, *, model: str, version: int, manifest: manifest_pb2.Manifest | None) -> models_pb2.UploadHeader:
        """The announcement of the upload."""
        return models_pb2.UploadHeader(
            model=model,
            version=version,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            file_name=self.file_name,
            manifest=manifest,
            extra_files=[
                models_pb2.ArtifactFile(path=extra.file_name, size_bytes=extra.size_bytes, sha256=extra.sha256)
                for extra in self.extra_files
            ],
        )

    async def messages(
        self, header: models_pb2.UploadHeader, progress: Progress | None
    ) -> AsyncIterator[models_pb2.UploadVersionRequest]:
        """Header and chunks; read in a thread, so that a slow disk doesn't hold up other calls."""
        yield models_pb2.UploadVersionRequest(header=header)
        sent = 0
        if progress is not None:
            progress(0, self.total_bytes)
        for file in (self, *self.extra_files):
            with await asyncio.to_thread(_opened, file.source) as content:
                while chunk := await asyncio.to_thread(content.read, CHUNK_BYTES):
                    yield models_pb2.UploadVersionRequest(chunk=chunk)
                    sent += len(chunk)
                    if progress is not None:
                        progress(sent, self.total_bytes)


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _measured(source: Path | bytes) -> tuple[int, str]:
    digest, size_bytes = hashlib.sha256(), 0
    with _opened(source) as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()
