"""One upload as a state machine: header, chunks, end. Pure: it receives no stream and writes nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A valid header. `version` 0 means the next free one, an empty `file_name` the format's own."""

    model: str
    version: int
    size_bytes: int
    sha256: str
    file_name: str
    stated: Manifest


def announcement(header: UploadHeader, *, upload_bytes_max: int) -> Announcement:
    """Checks a header; the manifest in it is checked by `manifest.check_stated`.

    Raises:
        HeadraceError: MODEL_NAME_INVALID, MODEL_VERSION_INVALID, FIELD_REQUIRED, FIELD_INVALID, NAME_INVALID
            (INVALID_ARGUMENT) or MODEL_FILE_TOO_LARGE (RESOURCE_EXHAUSTED).
    """
    check_model_name(header.model, field="header.model")
    check_version(header.version, zero="the next free one", field="header.version")
    if header.size_bytes == 0:
        raise required("header.size_bytes")
    if header.size_bytes < 0:
        raise invalid("header.size_bytes", "must be at least 1")
    if header.size_bytes > upload_bytes_max:
        raise ModelError(
            f"header.size_bytes is {header.size_bytes}, the registry accepts {upload_bytes_max}",
            entry=catalogue.MODEL_FILE_TOO_LARGE,
            context={"limit": upload_bytes_max, "actual": header.size_bytes},
            field="header.size_bytes",
        )
    check_sha256(header.sha256, field="header.sha256")
    if header.file_name:
        check_file_name(header.file_name, field="header.file_name")
    return Announcement(
        model=header.model,
        version=header.version,
        size_bytes=header.size_bytes,
        sha256=header.sha256,
        file_name=header.file_name,
        stated=header.manifest,
    )


class Upload:
    """Cuts chunks of any size into segments of one size and counts and hashes on the way.

    Call `accept` for each message and `finish` after the last; both give the segments that are complete. Pass each of
    them to `seal`, in order; then `content` tells whether all of it is what the header announced. Never holds more
    than one segment and one chunk.

    Invariant: the segments joined are the chunks joined, whatever the chunks' sizes.
    """

    def __init__(self, *, upload_bytes_max: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._upload_bytes_max = upload_bytes_max
        self._segment_bytes = segment_bytes
        self._announced: Announcement | None = None
        self._buffer = bytearray()
        self._received_bytes = 0
        self._whole = hashlib.sha256()
        self._segments: list[Segment] = []

    @property
    def announced(self) -> Announcement:
        """The header.

        Raises:
            ValidationError: REQUEST_MISSING (INVALID_ARGUMENT): there was no message.
        """
        if self._announced is None:
            raise ValidationError("the upload ended before its header", entry=catalogue.REQUEST_MISSING)
        return self._announced

    def accept(self, message: UploadVersionRequest) -> list[bytes]:
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
            self._announced = announcement(message.header, upload_bytes_max=self._upload_bytes_max)
            return []
        if self._announced is None:
            raise _order("header_first", "part must be the header in the first message; this is a chunk")
        return self._take(message.chunk, self._announced)

    def finish(self) -> list[bytes]:
        """Ends the upload; the last segment, unless it was complete before.

        Raises:
            HeadraceError: REQUEST_MISSING or MODEL_FILE_SIZE_MISMATCH (INVALID_ARGUMENT): bytes are missing.
        """
        announced = self.announced
        if self._received_bytes != announced.size_bytes:
            raise _size(
                announced,
                self._received_bytes,
                f"the upload ended after {self._received_bytes} of the {announced.size_bytes} bytes "
                "that header.size_bytes announced",
            )
        last = bytes(self._buffer)
        self._buffer.clear()
        return [last] if last else []

    def seal(self, data: bytes) -> Segment:
        """Hashes the next complete segment. Takes some milliseconds: call it off the event loop, one at a time."""
        self._whole.update(data)
        segment = Segment(sha256=hashlib.sha256(data).digest(), size_bytes=len(data))
        self._segments.append(segment)
        return segment

    def content(self) -> Content:
        """What was uploaded, once all segments are sealed.

        Raises:
            ModelError: MODEL_FILE_DIGEST_MISMATCH (INVALID_ARGUMENT).
        """
        announced = self.announced
        actual = self._whole.hexdigest()
        if actual != announced.sha256:
            raise ModelError(
                f"the bytes received have the SHA-256 {actual}, header.sha256 announced {announced.sha256}",
                entry=catalogue.MODEL_FILE_DIGEST_MISMATCH,
                context={"file": announced.file_name, "expected": announced.sha256, "actual": actual},
                field="header.sha256",
            )
        return Content(
            sha256=self._whole.digest(),
            size_bytes=announced.size_bytes,
            segment_bytes=self._segment_bytes,
            segments=tuple(self._segments),
        )

    def _take(self, chunk: bytes, announced: Announcement) -> list[bytes]:
        if len(chunk) > CHUNK_BYTES_MAX:
            raise too_long("chunk", f"has {len(chunk)} bytes, at most {CHUNK_BYTES_MAX} are allowed", CHUNK_BYTES_MAX)
        self._received_bytes += len(chunk)
        if self._received_bytes > announced.size_bytes:
            raise _size(
                announced,
                self._received_bytes,
                f"the upload goes on after the {announced.size_bytes} bytes that header.size_bytes announced",
            )
        self._buffer += chunk
        complete: list[bytes] = []
        while len(self._buffer) >= self._segment_bytes:
            complete.append(bytes(memoryview(self._buffer)[: self._segment_bytes]))
            del self._buffer[: self._segment_bytes]
        return complete


def _order(rule: str, message: str) -> ValidationError:
    return ValidationError(message, entry=catalogue.STREAM_ORDER_INVALID, context={"rule": rule}, field="part")


def _size(announced: Announcement, actual: int, message: str) -> ModelError:
    return ModelError(
        message,
        entry=catalogue.MODEL_FILE_SIZE_MISMATCH,
        context={"file": announced.file_name, "expected": announced.size_bytes, "actual": actual},
        field="header.size_bytes",
    )
