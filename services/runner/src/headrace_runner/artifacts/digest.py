"""Digests and paths of artefacts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from headrace.registry.v1.models_pb2 import ArtifactFile
from headrace_common import catalogue
from headrace_common.errors import ModelError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1 << 20


class Digest(Protocol):
    """A SHA-256 that still takes bytes."""

    def update(self, data: bytes, /) -> None:
        """Adds bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest of what was added, 64 lower-case hexadecimal digits."""
        ...


def artifact_digest(files: Sequence[ArtifactFile]) -> str:
    """Identifies an artefact by the paths and digests of its files, whoever owns it.

    Raises:
        ModelError: MODEL_FILE_INVALID (INVALID_ARGUMENT): no files, a path that leaves the artefact's folder, or a
            digest that is none.
    """
    if not files:
        raise _invalid("", "the version has no files")
    summary = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        path = PurePosixPath(file.path)
        plain = path.parts and not path.is_absolute() and str(path) == file.path and ".." not in path.parts
        if not plain or "\\" in file.path or "\0" in file.path:
            raise _invalid(file.path, "its path is not a relative path inside the artefact")
        if not _SHA256.fullmatch(file.sha256) or file.size_bytes < 0:
            raise _invalid(file.path, "its digest or size is malformed")
        summary.update(f"{file.path}\0{file.sha256}\0".encode())
    return summary.hexdigest()


def hash_file(path: Path, bytes_max: int) -> tuple[Digest, int]:
    """SHA-256 of a file's first `bytes_max` bytes, still open for more, and how many bytes went in. Blocks."""
    summary = hashlib.sha256()
    size = 0
    with path.open("rb") as source:
        while size < bytes_max and (data := source.read(min(_READ_BYTES, bytes_max - size))):
            summary.update(data)
            size += len(data)
    return summary, size


def is_intact(folder: Path, files: Sequence[ArtifactFile]) -> bool:
    """Whether every file of the artefact has its size and digest. Blocks for as long as hashing takes."""
    for file in files:
        path = folder / file.path
        try:
            if path.stat().st_size != file.size_bytes:
                return False
            summary, _ = hash_file(path, file.size_bytes)
        except OSError:
            return False
        if summary.hexdigest() != file.sha256:
            return False
    return True


def _invalid(path: str, why: str) -> ModelError:
    return ModelError(
        f"the artefact's file '{path}' can't be used: {why}",
        entry=catalogue.MODEL_FILE_INVALID,
        context={"file": path},
    )
