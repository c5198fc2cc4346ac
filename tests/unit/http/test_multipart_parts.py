"""Multipart bodies: the same parts however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_client.errors import HeadraceError
from headrace_gateway.http.multipart_parts import PARTS_MAX, PartEnd, PartHead, PartReader

TYPE = 'multipart/form-data; boundary="b-1"'
Part = tuple[str, str | None, bytes]


def body_of(parts: list[Part]) -> bytes:
    made = b""
    for name, file_name, content in parts:
        shown = f'; filename="{file_name}"' if file_name is not None else ""
        head = f'--b-1\r\nContent-Disposition: form-data; name="{name}"{shown}\r\nContent-Type: Text/Plain; a=b\r\n\r\n'
        made += head.encode() + content + b"\r\n"
    return made + b"--b-1--\r\n"


def read(pieces: list[bytes], content_type: str = TYPE) -> list[Part]:
    reader = PartReader(content_type)
    found: list[Part] = []
    open_part = False
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, PartHead):
                assert not open_part
                assert event.content_type == "text/plain"
                open_part = True
                found.append((event.name, event.file_name, b""))
            elif isinstance(event, PartEnd):
                open_part = False
            else:
                found[-1] = (*found[-1][:2], found[-1][2] + event)
    reader.finish()
    return found


CONTENT = st.binary(max_size=40) | st.sampled_from([b"\r\n--b-", b"\r\n--b-1x", b"--b-1", b"\r\n\r\n", b"\r"])
PARTS = st.lists(
    st.tuples(st.sampled_from(["manifest", "é"]), st.none() | st.sampled_from(["", "m.onnx", "ü.txt"]), CONTENT),
    min_size=1,
    max_size=4,
).filter(lambda parts: not any(b"\r\n--b-1" in b"\r\n" + content for _, _, content in parts))


@given(PARTS, st.lists(st.integers(0, 400), max_size=6))
def test_parts_are_what_they_were_however_the_body_is_cut(parts: list[Part], cuts: list[int]) -> None:
    body = body_of(parts)
    ends = [*sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert read([body[start:end] for start, end in zip([0, *ends], ends, strict=False)]) == parts


def test_names_of_files_have_no_folders() -> None:
    for sent in ("C:\\\\models\\\\m.onnx", "../../etc/m.onnx", "/m.onnx", "m.onnx"):
        assert read([body_of([("file", sent, b"x")])]) == [("file", "m.onnx", b"x")]


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        ("", "CONTENT_TYPE_UNSUPPORTED"),
        ("application/json", "CONTENT_TYPE_UNSUPPORTED"),
        ("multipart/mixed; boundary=b-1", "CONTENT_TYPE_UNSUPPORTED"),
        ("multipart/form-data", "REQUEST_MALFORMED"),
        ("multipart/form-data; boundary=", "REQUEST_MALFORMED"),
        (f"multipart/form-data; boundary={'b' * 71}", "REQUEST_MALFORMED"),
    ],
)
def test_other_content_types_are_refused(content_type: str, reason: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        PartReader(content_type)
    assert caught.value.reason == reason


ONE = body_of([("n", None, b"x")])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary",
        ONE[:-8],
        ONE[:30],
        ONE.replace(b'name="n"', b""),
        ONE.replace(b'"n"', b'"\xff"'),
        ONE.replace(b"Text", b"T" * 5000),
        ONE.replace(b"Content-Type", b"X: y\r\n" * 20 + b"Content-Type"),
        body_of([("n", None, b"")] * (PARTS_MAX + 1)),
    ],
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(HeadraceError) as caught:
        read([body])
    assert caught.value.reason == "REQUEST_MALFORMED"


@given(st.binary(max_size=80), st.integers(0, 200))
def test_any_bytes_are_parts_or_refused(noise: bytes, at: int) -> None:
    body = body_of([("n", "f", b"content")])
    for wrong in (noise, body[:at] + noise + body[at:], body[:at] + noise):
        reader = PartReader(TYPE)
        try:
            reader.feed(wrong)
            reader.finish()
        except HeadraceError as error:
            assert error.reason == "REQUEST_MALFORMED"
