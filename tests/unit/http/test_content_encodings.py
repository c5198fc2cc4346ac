"""Compressed bodies."""

from __future__ import annotations

import gzip
import zlib
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_client.errors import ValidationError
from headrace_gateway.http.content_encodings import Inflater

COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}
ENCODING = st.sampled_from(sorted(COMPRESS))


def inflated(encoding: str, *parts: bytes) -> bytes:
    inflater = Inflater(encoding)
    return b"".join(chain(*(inflater.pieces(part) for part in parts), inflater.finish()))


@given(ENCODING, st.binary(max_size=2000), st.integers(0, 2000))
def test_a_body_is_what_it_was_however_it_is_cut(encoding: str, body: bytes, cut: int) -> None:
    compressed = COMPRESS[encoding](body)
    assert inflated(encoding, compressed[:cut], compressed[cut:]) == body


@pytest.mark.parametrize("encoding", sorted(COMPRESS))
def test_what_is_asked_for_is_inflated_and_no_more(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(8 << 20))
    pieces = Inflater(encoding).pieces(bomb)
    assert [len(next(pieces)) for _ in range(3)] == [256 << 10] * 3
    assert inflated(encoding, bomb) == bytes(8 << 20)


@given(ENCODING, st.binary(min_size=1, max_size=200), st.binary(max_size=50), st.data())
def test_any_other_bytes_are_refused_or_the_same_body(
    encoding: str, body: bytes, noise: bytes, data: st.DataObject
) -> None:
    compressed = COMPRESS[encoding](body)
    at = data.draw(st.integers(0, len(compressed) - 1))
    for wrong in (compressed[:at], compressed + b"\0" + noise, compressed[:at] + noise):
        try:
            assert inflated(encoding, wrong) == body
        except ValidationError as error:
            assert error.reason == "REQUEST_MALFORMED"


def test_encodings_that_are_not_there() -> None:
    assert [name for name in ("gzip", "deflate", "br", "zstd", "", "gzip, gzip") if Inflater.takes(name)] == [
        "gzip",
        "deflate",
    ]
