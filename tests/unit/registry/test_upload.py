"""An upload's state machine: however the bytes arrive, the same segments and digests come out."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.registry.v1.models_pb2 import UploadHeader, UploadVersionRequest
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_registry.models import Content
from headrace_registry.upload import CHUNK_BYTES_MAX, Upload

SEGMENT_BYTES = 64


def header(content: bytes, **fields: Any) -> UploadVersionRequest:
    values: dict[str, Any] = {"model": "m", "size_bytes": len(content), "sha256": digest(content), **fields}
    return UploadVersionRequest(header=UploadHeader(**values))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def started(content: bytes, **fields: Any) -> Upload:
    upload = Upload(upload_bytes_max=1 << 30, segment_bytes=SEGMENT_BYTES)
    assert upload.accept(header(content, **fields)) == []
    return upload


def received(content: bytes, chunks: list[bytes]) -> tuple[list[bytes], Content]:
    """The segments that chunks are cut into, and the content that they are."""
    upload = started(content)
    segments: list[bytes] = []
    for chunk in chunks:
        segments += upload.accept(UploadVersionRequest(chunk=chunk))
    segments += upload.finish()
    for segment in segments:
        upload.seal(segment)
    return segments, upload.content()


@st.composite
def cut_contents(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    content = draw(st.binary(min_size=1, max_size=5 * SEGMENT_BYTES))
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=12)))
    edges = [0, *cuts, len(content)]
    return content, [content[start:stop] for start, stop in itertools.pairwise(edges)]


@given(cut_contents())
def test_segments_and_digests_do_not_depend_on_the_chunks(case: tuple[bytes, list[bytes]]) -> None:
    content, chunks = case
    segments, result = received(content, chunks)
    assert b"".join(segments) == content
    assert all(len(segment) == SEGMENT_BYTES for segment in segments[:-1])
    assert 1 <= len(segments[-1]) <= SEGMENT_BYTES
    assert result == received(content, [content])[1]
    assert result.sha256.hex() == digest(content)
    assert [segment.sha256 for segment in result.segments] == [hashlib.sha256(part).digest() for part in segments]
    assert sum(segment.size_bytes for segment in result.segments) == result.size_bytes == len(content)


@given(cut_contents(), st.integers(1, 100))
def test_missing_bytes_are_noticed_at_the_end(case: tuple[bytes, list[bytes]], missing: int) -> None:
    content, chunks = case
    upload = started(content, size_bytes=len(content) + missing)
    for chunk in chunks:
        upload.accept(UploadVersionRequest(chunk=chunk))
    with pytest.raises(HeadraceError) as failure:
        upload.finish()
    assert failure.value.entry == catalogue.MODEL_FILE_SIZE_MISMATCH
    assert failure.value.context["actual"] == len(content)


@given(cut_contents(), st.data())
def test_surplus_bytes_are_noticed_with_the_chunk_that_has_them(
    case: tuple[bytes, list[bytes]], data: st.DataObject
) -> None:
    content, chunks = case
    announced = data.draw(st.integers(1, len(content)))
    upload = started(content, size_bytes=announced)
    taken = 0
    for chunk in [*chunks, b"!"]:
        taken += len(chunk)
        if taken > announced:
            with pytest.raises(HeadraceError) as failure:
                upload.accept(UploadVersionRequest(chunk=chunk))
            assert failure.value.entry == catalogue.MODEL_FILE_SIZE_MISMATCH
            return
        upload.accept(UploadVersionRequest(chunk=chunk))
    pytest.fail("surplus bytes were taken")


@given(st.binary(min_size=1, max_size=300), st.integers(0, 299), st.integers(1, 255))
def test_one_changed_byte_is_noticed(content: bytes, place: int, change: int) -> None:
    damaged = bytearray(content)
    damaged[place % len(content)] ^= change
    upload = started(content)
    segments = upload.accept(UploadVersionRequest(chunk=bytes(damaged)))
    for segment in [*segments, *upload.finish()]:
        upload.seal(segment)
    with pytest.raises(HeadraceError) as failure:
        upload.content()
    assert failure.value.entry == catalogue.MODEL_FILE_DIGEST_MISMATCH
    assert failure.value.context["expected"] == digest(content)


def test_order_of_messages_is_enforced() -> None:
    upload = Upload(upload_bytes_max=100)
    for message, rule in ((UploadVersionRequest(chunk=b"x"), "header_first"), (header(b"abc"), "one_header")):
        if rule == "one_header":
            upload.accept(header(b"abc"))
        with pytest.raises(HeadraceError) as failure:
            upload.accept(message)
        assert failure.value.entry == catalogue.STREAM_ORDER_INVALID
        assert failure.value.context == {"rule": rule}


def test_limits_are_inclusive() -> None:
    upload = Upload(upload_bytes_max=CHUNK_BYTES_MAX)
    content = bytes(CHUNK_BYTES_MAX)
    upload.accept(header(content))
    assert upload.accept(UploadVersionRequest(chunk=content)) == [content]
    assert upload.finish() == []
    with pytest.raises(HeadraceError) as failure:
        Upload(upload_bytes_max=2).accept(header(b"abc"))
    assert failure.value.entry == catalogue.MODEL_FILE_TOO_LARGE
    assert failure.value.context == {"limit": 2, "actual": 3}


def test_upload_without_a_message_has_no_header() -> None:
    with pytest.raises(HeadraceError) as failure:
        Upload(upload_bytes_max=2).finish()
    assert failure.value.entry == catalogue.REQUEST_MISSING
