"""The walk through an untrusted file: finds every way out of it, and survives whatever bytes it is given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper

from headrace_common import wire
from headrace_registry.onnx_walk import DEPTH_MAX, check_onnx
from headrace_registry.refusal import Fault, Refusal
from support import onnx_models


def fault_of(content: bytes) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        check_onnx(memoryview(content))
    return refusal.value


@pytest.mark.parametrize("datatype", sorted(onnx_models.ELEMENT_TYPES))
def test_models_pass(datatype: str) -> None:
    check_onnx(memoryview(onnx_models.identity(datatype)))


def outside() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def value_attribute() -> AttributeProto:
    return helper.make_attribute("value", outside())


PLACES: dict[str, Callable[[ModelProto], object]] = {
    "initializer": lambda m: m.graph.initializer.append(outside()),
    "initializer with entries only": lambda m: m.graph.initializer.add(name="w").external_data.add(
        key="location", value="x"
    ),
    "sparse values": lambda m: m.graph.sparse_initializer.add().values.CopyFrom(outside()),
    "sparse indices": lambda m: m.graph.sparse_initializer.add().indices.CopyFrom(outside()),
    "attribute": lambda m: m.graph.node[0].attribute.append(value_attribute()),
    "attribute list": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("values", [outside()])),
    "sparse attribute": lambda m: m.graph.node[0].attribute.add().sparse_tensor.values.CopyFrom(outside()),
    "sparse list": lambda m: m.graph.node[0].attribute.add().sparse_tensors.add().values.CopyFrom(outside()),
    "subgraph": lambda m: m.graph.node[0].attribute.add().g.initializer.append(outside()),
    "subgraph list": lambda m: m.graph.node[0].attribute.add().graphs.add().initializer.append(outside()),
    "function": lambda m: m.functions.add().node.add().attribute.append(value_attribute()),
    "function attribute": lambda m: m.functions.add().attribute_proto.append(value_attribute()),
    "training": lambda m: m.training_info.add().initialization.initializer.append(outside()),
    "training algorithm": lambda m: m.training_info.add().algorithm.initializer.append(outside()),
}
"""Everywhere that a tensor may stand."""


@pytest.mark.parametrize("hide", PLACES.values(), ids=PLACES.keys())
def test_reference_to_another_file_is_found_wherever_it_stands(hide: Callable[[ModelProto], object]) -> None:
    model = ModelProto.FromString(onnx_models.tiny())
    hide(model)
    refusal = fault_of(model.SerializeToString())
    assert (refusal.fault, refusal.subject) == (Fault.EXTERNAL_DATA, "w")


def test_reference_in_a_second_copy_of_the_graph_is_found() -> None:
    """Protobuf merges repeated occurrences of one message field, so all of them count."""
    extra = ModelProto()
    extra.graph.initializer.append(outside())
    content = onnx_models.tiny() + extra.SerializeToString()
    assert fault_of(content).fault is Fault.EXTERNAL_DATA


def test_nesting_is_bounded() -> None:
    def nested(levels: int) -> bytes:
        graph = b""
        for _ in range(levels):
            attribute = wire.encode_len_field(6, graph)
            graph = wire.encode_len_field(1, wire.encode_len_field(5, attribute))
        return wire.encode_varint_field(1, 9) + wire.encode_len_field(7, graph)

    check_onnx(memoryview(nested((DEPTH_MAX - 2) // 3)))
    assert fault_of(nested(DEPTH_MAX)).fault is Fault.TOO_DEEP
    assert fault_of(nested(5_000)).fault is Fault.TOO_DEEP


@pytest.mark.parametrize(
    "content",
    [b"", b"just some words", wire.encode_varint_field(1, 9), wire.encode_len_field(7, b""), b"\x38\x01\x08\x09"],
)
def test_other_files_are_not_onnx(content: bytes) -> None:
    assert fault_of(content).fault is Fault.NOT_ONNX


@given(st.binary(max_size=2_000))
def test_any_bytes_are_refused_or_passed_and_never_crash(content: bytes) -> None:
    try:
        check_onnx(memoryview(content))
    except Refusal:
        return


@given(st.data())
def test_damaged_models_are_refused_or_passed_and_never_crash(data: st.DataObject) -> None:
    content = bytearray(onnx_models.with_external_data_in_subgraph())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_onnx(memoryview(content))
    except Refusal:
        return
