"""What is read of a GGUF file, and that no file makes reading it long, large or wrong."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_common.gguf import KEYS_MAX, GgufHeader, GgufInvalid, read_header
from support.gguf_files import Tensor, gguf, text, toy_values, typed
from support.smollm2 import model_file
from support.toy_language import CONTEXT, WIDTH, toy_language_model

_SETTINGS = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def _read(place: Path, content: bytes) -> GgufHeader:
    place.write_bytes(content)
    return read_header(place)


def _refused(place: Path, content: bytes) -> str:
    with pytest.raises(GgufInvalid) as failure:
        _read(place, content)
    return str(failure.value)


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_says_what_its_model_is(place: Path, version: int) -> None:
    tensors = (Tensor(name="a", axes=(2, 2)), Tensor(name="b", axes=(32,), kind=8, offset=32))
    header = _read(place, gguf(tensors=tensors, data=bytes(66), version=version))
    assert header == GgufHeader(
        architecture="llama",
        name="Toy",
        context_length=2_048,
        block_count=2,
        embedding_length=64,
        head_count=8,
        head_count_kv=2,
        kv_heads=4,
        key_length=8,
        value_length=8,
        vocabulary_size=3,
        pooling_type=None,
        causal_attention=True,
        chat_template="{{ messages }}",
        quantisation="Q8_0",
        parameters=36,
    )
    assert header.kv_bytes_per_token() == 2 * 2 * (8 + 8) * 2


def test_what_a_file_leaves_out_has_a_sensible_value(place: Path) -> None:
    plain = toy_values(
        general__name=None,
        general__file_type=None,
        tokenizer__chat_template=None,
        llama__attention__head_count_kv=None,
        tokenizer__ggml__tokens=None,
        llama__vocab_size=77,
        llama__attention__key_length=16,
        llama__pooling_type=1,
        llama__attention__causal=False,
    )
    header = _read(place, gguf(plain, tensors=()))
    assert (header.name, header.quantisation, header.chat_template, header.vocabulary_size) == ("", "", "", 77)
    assert (header.head_count_kv, header.key_length, header.value_length) == (8, 16, 8)
    assert (header.pooling_type, header.causal_attention, header.parameters) == (1, False, 0)


def test_heads_may_differ_from_layer_to_layer(place: Path) -> None:
    header = _read(place, gguf(toy_values(llama__attention__head_count_kv=[1, 3])))
    assert (header.head_count_kv, header.kv_bytes_per_token()) == (3, 4 * (8 + 8) * 2)
    assert "each of its 2 layers" in _refused(place, gguf(toy_values(llama__attention__head_count_kv=[1, 2, 3])))


def test_the_real_model_is_read_in_little_time_and_memory() -> None:
    path = model_file()
    read_header(path)
    started_s = time.thread_time()
    read_header(path)
    took_s = time.thread_time() - started_s
    tracemalloc.start()
    header = read_header(path)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (header.architecture, header.context_length, header.vocabulary_size) == ("llama", 8_192, 49_152)
    assert (header.quantisation, header.parameters, header.kv_bytes_per_token()) == ("Q4_1", 134_515_008, 23_040)
    assert "<|im_start|>" in header.chat_template
    assert took_s < 2
    assert most < 4 << 20 and held < 1 << 20


def test_a_model_that_another_program_wrote_is_read(place: Path) -> None:
    header = _read(place, toy_language_model())
    assert (header.name, header.context_length, header.kv_bytes_per_token()) == ("toy", CONTEXT, 2 * WIDTH * 2)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not a GGUF"),
        (b"GGU", "is not a GGUF"),
        (b"PK\3\4" + bytes(100), "is not a GGUF"),
        (b"GGUF" + struct.pack("<I", 1), "version 1"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "1152921504606846976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, KEYS_MAX + 1), "keys, at most"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 50), "a key of 1125899906842624 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"\xff") + typed(1), "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 77, 1), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 4, 1 << 62), "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 1 << 40), "elements"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IQ", 8, 1 << 63), "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 9) * 9 + bytes(99), "elements"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + (text("a") + typed(1)) * 2, "key 'a' twice"),
        (gguf()[:100], "cut off: it ends at byte 100"),
        (gguf()[:-1], "before its tensor 'token_embd.weight'"),
        (gguf(tensors=(Tensor(name="a", axes=(1,) * 5),)), "of 5 axes"),
        (gguf(tensors=(Tensor(name="a", offset=1 << 63),)), "before its tensor 'a'"),
        (gguf(toy_values(general__alignment=3)), "no power of two"),
        (gguf(toy_values(general__architecture=None)), "no architecture"),
        (gguf(toy_values(general__architecture=7)), "no text under the key 'general.architecture'"),
        (gguf(toy_values(general__type="adapter")), "it is of the type 'adapter'"),
        (gguf(toy_values(split__count=4)), "one of 4 parts"),
        (gguf(toy_values(llama__context_length=None)), "'llama.context_length'"),
        (gguf(toy_values(llama__context_length=0)), "'llama.context_length'"),
        (gguf(toy_values(llama__context_length=-1)), "'llama.context_length'"),
        (gguf(toy_values(llama__context_length=1.5)), "'llama.context_length'"),
        (gguf(toy_values(llama__context_length="many")), "'llama.context_length'"),
        (gguf(toy_values(llama__block_count=1 << 40)), "'llama.block_count'"),
        (gguf(toy_values(llama__attention__head_count=-1)), "each of its 2 layers"),
        (gguf(toy_values(tokenizer__chat_template="x" * ((1 << 20) + 1))), "1048577 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_is_refused_with_the_reason(place: Path, content: bytes, why: str) -> None:
    assert why in _refused(place, content)


def test_arrays_in_arrays_go_no_deeper_than_two(place: Path) -> None:
    def nested(depth: int) -> bytes:
        inner = struct.pack("<IQ", 9, 1) * (depth - 1) + struct.pack("<IQI", 4, 1, 5)
        return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 9) + inner

    assert "too deep" in _refused(place, nested(3))
    assert "no architecture" in _refused(place, nested(2))


@_SETTINGS
@given(st.binary(max_size=400))
def test_no_bytes_make_anything_else_than_the_one_error(place: Path, content: bytes) -> None:
    _refused(place, content)
    _refused(place, b"GGUF\3\0\0\0" + content)
    _refused(place, b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + content)


@_SETTINGS
@given(st.data())
def test_a_changed_file_gives_a_header_or_the_one_error(place: Path, data: st.DataObject) -> None:
    content = bytearray(gguf())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    place.write_bytes(content)
    try:
        header = read_header(place)
    except GgufInvalid:
        return
    assert header.context_length >= 1 and header.kv_bytes_per_token() >= 0


@pytest.fixture(scope="module")
def real_beginning() -> tuple[bytes, int]:
    """The header of the real model with the first of its weights, and the length of its file."""
    path = model_file()
    with path.open("rb") as file:
        return file.read(2 << 20), path.stat().st_size


@settings(_SETTINGS, max_examples=25)
@given(st.data())
def test_the_real_file_with_flipped_bits_gives_a_header_or_the_one_error(
    place: Path, real_beginning: tuple[bytes, int], data: st.DataObject
) -> None:
    content = bytearray(real_beginning[0])
    for _ in range(data.draw(st.integers(1, 8))):
        # Most of the header is vocabulary; what says how to read it comes first.
        last = data.draw(st.sampled_from([400, 4_000, len(content) - 1]))
        content[data.draw(st.integers(0, last))] ^= 1 << data.draw(st.integers(0, 7))
    with place.open("wb") as file:
        file.write(content)
        file.truncate(real_beginning[1])
    started_s = time.thread_time()
    try:
        assert read_header(place).context_length >= 1
    except GgufInvalid as error:
        assert len(str(error)) < 400
    assert time.thread_time() - started_s < 10


def test_a_vocabulary_of_nothing_takes_no_memory(place: Path) -> None:
    """Eight bytes an entry, the cheapest way to make reading long."""
    count = 1 << 18
    place.write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, count) + bytes(8 * count)
    )
    tracemalloc.start()
    with pytest.raises(GgufInvalid, match="no architecture"):
        read_header(place)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 << 20
