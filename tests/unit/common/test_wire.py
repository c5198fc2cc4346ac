"""The field walk against protobuf itself."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value
from google.protobuf.unknown_fields import UnknownFieldSet
from google.protobuf.wrappers_pb2 import Int64Value, UInt64Value
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace_common import catalogue, wire
from headrace_common.errors import ValidationError

Walked = list[tuple[int, int, int | bytes]]

numbers = st.one_of(st.integers(1, 15), st.integers(16, (1 << 29) - 1))
uint64 = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))


def varint_bytes(value: int, padding: int = 0) -> bytes:
    """An independent encoder, able to write longer forms than needed."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    groups += [0] * padding
    return bytes([group | 0x80 for group in groups[:-1]] + [groups[-1]])


@st.composite
def encoded_fields(draw: st.DrawFn) -> bytes:
    """One well-formed field, or one that is slightly wrong."""
    number, kind = draw(numbers), draw(st.sampled_from([0, 1, 2, 3, 5]))
    tag = varint_bytes(number << 3 | kind, draw(st.sampled_from([0, 0, 0, 1, 4, 9])))
    match kind:
        case 0:
            return tag + varint_bytes(draw(uint64), draw(st.sampled_from([0, 0, 0, 1, 9, 10])))
        case 1 | 5:
            size = 8 if kind == 1 else 4
            return tag + draw(st.binary(min_size=size, max_size=size))
        case 2:
            payload = draw(st.binary(max_size=40))
            length = draw(st.sampled_from([len(payload)] * 8 + [len(payload) + 1, 1 << 31, 1 << 35, 1 << 63]))
            return tag + varint_bytes(length, draw(st.sampled_from([0, 0, 1, 4, 9]))) + payload
        case _:
            inner = b"".join(draw(st.lists(encoded_fields(), max_size=2)))
            end = draw(st.sampled_from([number] * 5 + [number % 15 + 1]))
            return tag + inner + varint_bytes(end << 3 | 4)


def has_number_zero(fields: UnknownFieldSet) -> bool:
    return any(
        field.field_number == 0 or (field.wire_type == wire.START_GROUP and has_number_zero(field.data))
        for field in fields
    )


def by_protobuf(data: bytes) -> Walked | None:
    """What protobuf makes of the bytes as a message that knows no field; None where it refuses them.

    The number 0 is illegal by protobuf's specification; some of its parsers let it pass, the walk never does.
    """
    try:
        message = Empty.FromString(data)
    except DecodeError:
        return None
    if has_number_zero(UnknownFieldSet(message)):
        return None
    return [
        (field.field_number, field.wire_type, field.data)
        for field in UnknownFieldSet(message)
        if field.wire_type != wire.START_GROUP
    ]


def by_walk(data: bytes) -> Walked | None:
    try:
        return [
            (number, kind, value if isinstance(value, int) else bytes(value))
            for number, kind, value in wire.fields(data)
        ]
    except ValidationError as error:
        assert error.entry is catalogue.REQUEST_MALFORMED
        return None


@given(st.lists(encoded_fields(), max_size=6).map(b"".join))
@settings(max_examples=200, deadline=None)
@example(b"\x88\x80\x80\x80\x80\x00\x01")
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_near_valid_bytes_are_walked_or_refused_like_protobuf_does(data: bytes) -> None:
    assert by_walk(data) == by_protobuf(data)


@given(st.binary(max_size=64))
@settings(max_examples=200, deadline=None)
def test_garbage_is_walked_or_refused_like_protobuf_does(data: bytes) -> None:
    assert by_walk(data) == by_protobuf(data)


@given(st.lists(encoded_fields(), min_size=1, max_size=4).map(b"".join), st.data())
@settings(max_examples=150, deadline=None)
def test_truncation_anywhere_is_walked_or_refused_like_protobuf_does(data: bytes, more: st.DataObject) -> None:
    cut = data[: more.draw(st.integers(0, len(data)))]
    assert by_walk(cut) == by_protobuf(cut)


@given(st.text(), st.integers(-(1 << 31), (1 << 31) - 1), st.lists(st.text(min_size=1), max_size=4))
@settings(deadline=None)
def test_fields_of_a_real_message_come_out_by_number(name: str, number: int, dependencies: list[str]) -> None:
    field = FieldDescriptorProto(name=name, number=number, label=FieldDescriptorProto.LABEL_REPEATED)
    walked = {number_: value for number_, _, value in wire.fields(field.SerializeToString())}
    assert wire.text(walked[1]) == name
    assert isinstance(walked[3], int)
    assert wire.signed(walked[3]) == number
    file = FileDescriptorProto(dependency=dependencies)
    assert [wire.text(value) for _, _, value in wire.fields(file.SerializeToString())] == dependencies


@given(st.integers(-(1 << 63), (1 << 63) - 1), uint64)
def test_varints_are_written_as_protobuf_writes_them(signed: int, unsigned: int) -> None:
    assert wire.varint(signed) == Int64Value(value=signed).SerializeToString()[1:] or signed == 0
    assert wire.varint(unsigned) == UInt64Value(value=unsigned).SerializeToString()[1:] or unsigned == 0
    assert wire.read_varint(wire.varint(unsigned), 0) == (unsigned, len(wire.varint(unsigned)))
    assert wire.signed(wire.read_varint(wire.varint(signed), 0)[0]) == signed


@given(numbers, st.binary(max_size=300), uint64)
def test_written_fields_are_read_back(number: int, payload: bytes, value: int) -> None:
    data = wire.encode_len_field(number, payload) + wire.encode_varint_field(number, value)
    assert by_protobuf(data) == [(number, 2, payload), (number, 0, value)]
    assert data.startswith(wire.len_field_header(number, len(payload)) + payload)


def test_views_share_memory_with_the_buffer() -> None:
    buffer = bytearray(Value(string_value="abc").SerializeToString())
    ((_, _, view),) = list(wire.fields(buffer))
    assert isinstance(view, memoryview)
    buffer[-1] = ord("x")
    assert bytes(view) == b"abx"


def test_nested_groups_cannot_exhaust_the_stack() -> None:
    assert by_walk(b"\x0b" * 100_000) is None


def test_fields_are_counted_and_one_too_many_is_malformed() -> None:
    data = wire.encode_varint_field(1, 7) * 3
    assert len(list(wire.fields(data, fields_max=3))) == 3
    with pytest.raises(ValidationError) as caught:
        list(wire.fields(data, fields_max=2))
    assert caught.value.entry is catalogue.REQUEST_MALFORMED


def test_fields_inside_of_groups_are_counted_too() -> None:
    group = wire.varint(9 << 3 | wire.START_GROUP), wire.varint(9 << 3 | wire.END_GROUP)
    data = group[0] + group[0] + wire.encode_varint_field(1, 7) * 2 + group[1] + group[1]
    following = wire.encode_varint_field(2, 1)
    assert list(wire.fields(data + following, fields_max=5)) == [(2, wire.VARINT, 1)]
    for fields_max in range(5):
        with pytest.raises(ValidationError):
            list(wire.fields(data + following, fields_max=fields_max))


@pytest.mark.parametrize("value", [memoryview(b"\xff\xfe"), 7])
def test_text_that_is_not_text_is_malformed(value: int | memoryview) -> None:
    with pytest.raises(ValidationError):
        wire.text(value)
