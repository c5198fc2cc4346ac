"""Names, digests, page positions and file signatures: what passes and what doesn't."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.registry.v1.manifest_pb2 import ARTIFACT_FORMAT_GGUF, ARTIFACT_FORMAT_ONNX
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.page_token import encode_page_token
from headrace_registry.artifact_format import HEAD_BYTES, recognise
from headrace_registry.field_rules import (
    VERSION_MAX,
    check_file_name,
    check_model_name,
    check_pairs,
    check_sha256,
    check_version,
)
from headrace_registry.paging import models_position, models_token, versions_position, versions_token
from headrace_registry.segments import segment_key
from support import onnx_models
from support.gguf_files import gguf

MODEL_NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}", fullmatch=True)


@given(MODEL_NAMES)
def test_names_of_the_grammar_pass(name: str) -> None:
    assert check_model_name(name, field="name") == name
    assert models_position(models_token(name)) == name


@pytest.mark.parametrize(
    "name", ["", ".m", "-m", "_m", "m/n", "m n", "m\n", "\u212a", "m\u200b", "é", "m" * 129, "..", "m\0"]
)
def test_names_outside_of_the_grammar_do_not(name: str) -> None:
    with pytest.raises(HeadraceError) as failure:
        check_model_name(name, field="name")
    assert failure.value.entry == catalogue.MODEL_NAME_INVALID


@given(st.text(max_size=20))
def test_file_name_that_passes_is_one_plain_component(name: str) -> None:
    try:
        check_file_name(name, field="file_name")
    except HeadraceError as error:
        assert error.entry == catalogue.NAME_INVALID
        return
    assert name.isascii()
    assert name.isprintable()
    assert not name.startswith((".", "-"))
    assert not set(name) & set("/\\:~ \0")


@pytest.mark.parametrize(
    ("version", "zero", "passes"),
    [
        (1, None, True),
        (0, None, False),
        (0, "the latest", True),
        (-1, "the latest", False),
        (VERSION_MAX, None, True),
        (VERSION_MAX + 1, "the latest", False),
    ],
)
def test_versions_are_positive_and_bounded(version: int, zero: str | None, passes: bool) -> None:
    if passes:
        assert check_version(version, zero=zero) == version
    else:
        with pytest.raises(HeadraceError) as failure:
            check_version(version, zero=zero)
        assert failure.value.entry == catalogue.MODEL_VERSION_INVALID


def test_digest_is_64_lower_case_hexadecimal_digits() -> None:
    assert check_sha256("0" * 64, field="sha256")
    for text in ("0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n"):
        with pytest.raises(HeadraceError):
            check_sha256(text, field="sha256")


def test_pairs_need_keys() -> None:
    with pytest.raises(HeadraceError, match="empty key"):
        check_pairs({"": "value"}, field="metadata")


@given(st.integers(1, VERSION_MAX))
def test_position_in_a_listing_of_versions_survives(version: int) -> None:
    assert versions_position(versions_token("m", version), "m") == version


@pytest.mark.parametrize("position", [("x",), (0,), (VERSION_MAX + 1,), (1, 2), ()])
def test_forged_position_is_refused(position: tuple[str | int, ...]) -> None:
    token = encode_page_token({"listing": "versions", "model": "m"}, position)
    with pytest.raises(HeadraceError) as failure:
        versions_position(token, "m")
    assert failure.value.entry == catalogue.PAGE_TOKEN_INVALID


@pytest.mark.parametrize("position", [(1,), ("a", "b"), ("a\0",)])
def test_forged_name_position_is_refused(position: tuple[str | int, ...]) -> None:
    with pytest.raises(HeadraceError):
        models_position(encode_page_token({"listing": "models"}, position))


@pytest.mark.parametrize("datatype", sorted(onnx_models.ELEMENT_TYPES))
def test_onnx_files_are_recognised(datatype: str) -> None:
    assert recognise(onnx_models.identity(datatype)[:HEAD_BYTES]) == ARTIFACT_FORMAT_ONNX


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x20\0\0\0TFL3", "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PK\x03\x04", "ZIP"),
        (b"\x80\x02}q\0", "pickle"),
        (b"\x80\x05", "pickle"),
        (b"\x40\0\0\0\0\0\0\0{", "safetensors"),
        (b"\x7fELF", "ELF"),
    ],
)
def test_other_formats_are_named(head: bytes, name: str) -> None:
    with pytest.raises(HeadraceError, match=name) as failure:
        recognise(head)
    assert failure.value.entry == catalogue.MODEL_FORMAT_UNSUPPORTED


def test_keys_of_tenants_never_meet() -> None:
    digest = bytes(range(32))
    assert segment_key("acme", digest) != segment_key("acme-2", digest)
    assert segment_key("acme", digest).startswith("tenants/acme/segments/00/")


def test_gguf_files_are_recognised_by_their_first_bytes() -> None:
    assert recognise(gguf()[:HEAD_BYTES]) == ARTIFACT_FORMAT_GGUF
    assert recognise(b"GGUF") == ARTIFACT_FORMAT_GGUF
    assert recognise(b"GGU") == ARTIFACT_FORMAT_ONNX
