"""An upload's state machine: however the bytes arrive, the same segments and digests come out."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.registry.v1.models_pb2 import ArtifactFile, UploadHeader, UploadVersionRequest
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_registry.models import Content
from headrace_registry.upload import CHUNK_BYTES_MAX, EXTRA_FILE_BYTES_MAX, Piece, Upload

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
    pieces: list[Piece] = []
    for chunk in chunks:
        pieces += upload.accept(UploadVersionRequest(chunk=chunk))
    upload.finish()
    for piece in pieces:
        upload.seal(piece)
    return [piece.data for piece in pieces], upload.contents()[0]


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
    for piece in upload.accept(UploadVersionRequest(chunk=bytes(damaged))):
        upload.seal(piece)
    upload.finish()
    with pytest.raises(HeadraceError) as failure:
        upload.contents()
    assert failure.value.entry == catalogue.MODEL_FILE_DIGEST_MISMATCH
    assert failure.value.context["expected"] == digest(content)


def extra(path: str, content: bytes, **fields: Any) -> ArtifactFile:
    return ArtifactFile(**{"path": path, "size_bytes": len(content), "sha256": digest(content), **fields})


@given(st.lists(st.binary(min_size=1, max_size=3 * SEGMENT_BYTES), min_size=2, max_size=4), st.integers(1, 200))
def test_files_come_out_one_by_one_however_the_chunks_lie(contents: list[bytes], chunk_bytes: int) -> None:
    extras = [extra(f"{index}.json", content) for index, content in enumerate(contents[1:])]
    upload = started(contents[0], extra_files=extras)
    whole = b"".join(contents)
    pieces: list[Piece] = []
    for start in range(0, len(whole), chunk_bytes):
        pieces += upload.accept(UploadVersionRequest(chunk=whole[start : start + chunk_bytes]))
    upload.finish()
    for piece in pieces:
        upload.seal(piece)
    joined = [b"".join(piece.data for piece in pieces if piece.file == file) for file in range(len(contents))]
    assert joined == contents
    assert [result.sha256.hex() for result in upload.contents()] == [digest(content) for content in contents]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"extra_files": [extra("a.json", b"")]}, "header.extra_files[0].size_bytes"),
        (
            {"extra_files": [extra("a.json", b"a", size_bytes=EXTRA_FILE_BYTES_MAX + 1)]},
            "header.extra_files[0].size_bytes",
        ),
        ({"extra_files": [extra("a/b.json", b"a")]}, "header.extra_files[0].path"),
        ({"extra_files": [extra("b.onnx", b"a")]}, "header.extra_files[0].path"),
        ({"extra_files": [extra("a", b"a"), extra("a", b"b")]}, "header.extra_files[1].path"),
        ({"extra_files": [extra("a", b"a", sha256="00")]}, "header.extra_files[0].sha256"),
        ({"extra_files": [extra(f"f{index}", b"a") for index in range(17)]}, "header.extra_files"),
        ({"extra_files": [extra("a", b"a")], "file_name": "weights"}, "header.file_name"),
    ],
)
def test_bad_extra_files_are_refused_with_the_header(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(HeadraceError) as failure:
        Upload(upload_bytes_max=1 << 40).accept(header(b"abc", **fields))
    assert failure.value.field == field


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
    assert upload.accept(UploadVersionRequest(chunk=content)) == [Piece(0, content)]
    upload.finish()
    with pytest.raises(HeadraceError) as failure:
        Upload(upload_bytes_max=2).accept(header(b"abc"))
    assert failure.value.entry == catalogue.MODEL_FILE_TOO_LARGE
    assert failure.value.context == {"limit": 2, "actual": 3}


def test_upload_without_a_message_has_no_header() -> None:
    with pytest.raises(HeadraceError) as failure:
        Upload(upload_bytes_max=2).finish()
    assert failure.value.entry == catalogue.REQUEST_MISSING
