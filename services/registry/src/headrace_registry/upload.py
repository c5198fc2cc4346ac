"""One upload as a state machine: header, chunks, end. Pure: it receives no stream and writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace.registry.v1.models_pb2 import UploadHeader, UploadVersionRequest
from headrace_common import catalogue
from headrace_common.errors import ModelError, ValidationError
from headrace_registry.field_rules import (
    check_file_name,
    check_model_name,
    check_sha256,
    check_version,
    invalid,
    required,
    too_long,
)
from headrace_registry.models import Content, Segment

SEGMENT_BYTES = 4 << 20
CHUNK_BYTES_MAX = 4 << 20
EXTRA_FILES_MAX = 16
EXTRA_FILE_BYTES_MAX = 64 << 20

# Of a version with several files runners must know which one is the model.
_MODEL_SUFFIXES = (".onnx", ".gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncedFile:
    """One file of an upload. `sha256` is in hexadecimal, `field` is where the header announces it."""

    path: str
    size_bytes: int
    sha256: str
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A valid header. `version` 0 means the next free one.

    Attributes:
        files: The model's file, whose path may be empty for the format's own, then the extra files.
    """

    model: str
    version: int
    files: Sequence[AnnouncedFile]
    stated: Manifest


def announcement(header: UploadHeader, *, upload_bytes_max: int) -> Announcement:
    """Checks a header; the manifest in it is checked by `manifest.check_stated`.

    Raises:
        HeadraceError: MODEL_NAME_INVALID, MODEL_VERSION_INVALID, FIELD_REQUIRED, FIELD_INVALID, FIELD_TOO_LONG,
            NAME_INVALID (INVALID_ARGUMENT) or MODEL_FILE_TOO_LARGE (RESOURCE_EXHAUSTED).
    """
    check_model_name(header.model, field="header.model")
    check_version(header.version, zero="the next free one", field="header.version")
    _check_content(header.size_bytes, header.sha256, "header", upload_bytes_max)
    if header.file_name:
        check_file_name(header.file_name, field="header.file_name")
    files = [
        AnnouncedFile(path=header.file_name, size_bytes=header.size_bytes, sha256=header.sha256, field="header"),
        *_extra_files(header, min(upload_bytes_max, EXTRA_FILE_BYTES_MAX)),
    ]
    return Announcement(model=header.model, version=header.version, files=files, stated=header.manifest)


def _extra_files(header: UploadHeader, bytes_max: int) -> Iterator[AnnouncedFile]:
    extras = header.extra_files
    if len(extras) > EXTRA_FILES_MAX:
        why = f"has {len(extras)} files, at most {EXTRA_FILES_MAX} are allowed"
        raise too_long("header.extra_files", why, EXTRA_FILES_MAX)
    suffixes = " or ".join(_MODEL_SUFFIXES)
    if extras and header.file_name and not header.file_name.endswith(_MODEL_SUFFIXES):
        raise invalid("header.file_name", f"must end with {suffixes} where there are other files")
    seen: set[str] = set()
    for index, extra in enumerate(extras):
        field = f"header.extra_files[{index}]"
        check_file_name(extra.path, field=f"{field}.path")
        if extra.path.endswith(_MODEL_SUFFIXES):
            raise invalid(f"{field}.path", f"must not end with {suffixes}, as models do")
        if extra.path in seen:
            raise invalid(f"{field}.path", f"repeats '{extra.path}'")
        seen.add(extra.path)
        _check_content(extra.size_bytes, extra.sha256, field, bytes_max)
        yield AnnouncedFile(path=extra.path, size_bytes=extra.size_bytes, sha256=extra.sha256, field=field)


def _check_content(size_bytes: int, sha256: str, place: str, bytes_max: int) -> None:
    field = f"{place}.size_bytes"
    if size_bytes == 0:
        raise required(field)
    if size_bytes < 0:
        raise invalid(field, "must be at least 1")
    if size_bytes > bytes_max:
        raise ModelError(
            f"{field} is {size_bytes}, the registry accepts {bytes_max}",
            entry=catalogue.MODEL_FILE_TOO_LARGE,
            context={"limit": bytes_max, "actual": size_bytes},
            field=field,
        )
    check_sha256(sha256, field=f"{place}.sha256")


class Piece(NamedTuple):
    """The bytes of one segment of the file with that place among the announced ones."""

    file: int
    data: bytes


class Upload:
    """Cuts chunks of any size into segments of one size, each of one file, and counts and hashes on the way.

    Call `accept` for each message, which gives the segments that are complete, and `finish` after the last. Pass each
    segment to `seal`, in order; then `contents` tells whether all of it is what the header announced. Never holds more
    than one segment and one chunk.

    Invariant: the segments joined are the chunks joined, whatever the chunks' sizes.
    """

    def __init__(self, *, upload_bytes_max: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._upload_bytes_max = upload_bytes_max
        self._segment_bytes = segment_bytes
        self._announced: Announcement | None = None
        self._buffer = bytearray()
        self._received_bytes = 0
        self._announced_bytes = 0
        self._plan: Iterator[tuple[int, int]] = iter(())
        self._next: tuple[int, int] | None = None
        self._sealed: list[_Sealed] = []

    @property
    def announced(self) -> Announcement:
        """The header.

        Raises:
            ValidationError: REQUEST_MISSING (INVALID_ARGUMENT): there was no message.
        """
        if self._announced is None:
            raise ValidationError("the upload ended before its header", entry=catalogue.REQUEST_MISSING)
        return self._announced

    def accept(self, message: UploadVersionRequest) -> list[Piece]:
        """Takes the next message; the segments that it completes.

        Raises:
            HeadraceError: what `announcement` raises; STREAM_ORDER_INVALID, FIELD_REQUIRED, FIELD_TOO_LONG or
                MODEL_FILE_SIZE_MISMATCH (INVALID_ARGUMENT).
        """
        part = message.WhichOneof("part")
        if part is None:
            raise required("part")
        if part == "header":
            if self._announced is not None:
                raise _order(
                    "one_header", "part must be a chunk in all messages but the first; this is a second header"
                )
            announced = self._announced = announcement(message.header, upload_bytes_max=self._upload_bytes_max)
            self._announced_bytes = sum(file.size_bytes for file in announced.files)
            self._sealed = [_Sealed() for _ in announced.files]
            self._plan = _segment_sizes(announced.files, self._segment_bytes)
            self._next = next(self._plan)
            return []
        if self._announced is None:
            raise _order("header_first", "part must be the header in the first message; this is a chunk")
        return self._take(message.chunk)

    def finish(self) -> None:
        """Ends the upload.

        Raises:
            HeadraceError: REQUEST_MISSING or MODEL_FILE_SIZE_MISMATCH (INVALID_ARGUMENT): bytes are missing.
        """
        announced = self.announced
        if self._received_bytes != self._announced_bytes:
            raise self._size_mismatch(
                announced, f"the upload ended after {self._received_bytes} of the {self._announced_bytes} bytes"
            )

    def seal(self, piece: Piece) -> Segment:
        """Hashes the next complete segment. Takes some milliseconds: call it off the event loop, one at a time."""
        sealed = self._sealed[piece.file]
        sealed.whole.update(piece.data)
        segment = Segment(sha256=hashlib.sha256(piece.data).digest(), size_bytes=len(piece.data))
        sealed.segments.append(segment)
        return segment

    def contents(self) -> list[Content]:
        """What was uploaded, file by file, once all segments are sealed.

        Raises:
            ModelError: MODEL_FILE_DIGEST_MISMATCH (INVALID_ARGUMENT).
        """
        return [
            self._content(announced, sealed)
            for announced, sealed in zip(self.announced.files, self._sealed, strict=True)
        ]

    def _content(self, announced: AnnouncedFile, sealed: _Sealed) -> Content:
        actual = sealed.whole.hexdigest()
        if actual != announced.sha256:
            field = f"{announced.field}.sha256"
            raise ModelError(
                f"the bytes received have the SHA-256 {actual}, {field} announced {announced.sha256}",
                entry=catalogue.MODEL_FILE_DIGEST_MISMATCH,
                context={"file": announced.path, "expected": announced.sha256, "actual": actual},
                field=field,
            )
        return Content(
            sha256=sealed.whole.digest(),
            size_bytes=announced.size_bytes,
            segment_bytes=self._segment_bytes,
            segments=tuple(sealed.segments),
        )

    def _take(self, chunk: bytes) -> list[Piece]:
        if len(chunk) > CHUNK_BYTES_MAX:
            raise too_long("chunk", f"has {len(chunk)} bytes, at most {CHUNK_BYTES_MAX} are allowed", CHUNK_BYTES_MAX)
        self._received_bytes += len(chunk)
        if self._received_bytes > self._announced_bytes:
            raise self._size_mismatch(self.announced, f"the upload goes on after the {self._announced_bytes} bytes")
        self._buffer += chunk
        complete: list[Piece] = []
        while self._next is not None and len(self._buffer) >= self._next[1]:
            file, size = self._next
            complete.append(Piece(file, bytes(memoryview(self._buffer)[:size])))
            del self._buffer[:size]
            self._next = next(self._plan, None)
        return complete

    def _size_mismatch(self, announced: Announcement, what: str) -> ModelError:
        several = " and those of header.extra_files" if len(announced.files) > 1 else ""
        return ModelError(
            f"{what} that header.size_bytes{several} announced",
            entry=catalogue.MODEL_FILE_SIZE_MISMATCH,
            context={
                "file": announced.files[0].path,
                "expected": self._announced_bytes,
                "actual": self._received_bytes,
            },
            field="header.size_bytes",
        )


class _Sealed:
    """The segments of one file so far, and the digest of all of them."""

    def __init__(self) -> None:
        self.whole = hashlib.sha256()
        self.segments: list[Segment] = []


def _segment_sizes(files: Sequence[AnnouncedFile], segment_bytes: int) -> Iterator[tuple[int, int]]:
    """File and size of each segment, in order."""
    for index, file in enumerate(files):
        for start in range(0, file.size_bytes, segment_bytes):
            yield index, min(segment_bytes, file.size_bytes - start)


def _order(rule: str, message: str) -> ValidationError:
    return ValidationError(message, entry=catalogue.STREAM_ORDER_INVALID, context={"rule": rule}, field="part")
