"""The gateway's view of the inference contract is the same on the wire as the one that clients see."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor

from headrace.gateway.internal.v1 import raw_inference_pb2
from headrace.gateway.v1 import inference_pb2

RAW = raw_inference_pb2.DESCRIPTOR.message_types_by_name
PUBLIC = inference_pb2.DESCRIPTOR.message_types_by_name


def _same_on_the_wire(raw: FieldDescriptor, public: FieldDescriptor) -> bool:
    if raw.message_type and public.message_type:
        return raw.message_type.name in (f"Raw{public.message_type.name}", public.message_type.name)
    message_as_bytes = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_BYTES)
    return raw.type == public.type or (public.type, raw.type) == message_as_bytes


def _oneof(field: FieldDescriptor) -> str | None:
    return field.containing_oneof.name if field.containing_oneof else None


@pytest.mark.parametrize("name", sorted(RAW))
def test_each_raw_message_has_the_fields_of_the_public_one(name: str) -> None:
    raw, public = RAW[name], PUBLIC[name.removeprefix("Raw")]
    assert set(raw.fields_by_number) == set(public.fields_by_number)
    for number, field in raw.fields_by_number.items():
        other = public.fields_by_number[number]
        assert (field.name, field.is_repeated, _oneof(field)) == (other.name, other.is_repeated, _oneof(other))
        assert _same_on_the_wire(field, other), field.full_name


def test_gateways_parse_no_tensors_and_no_failures() -> None:
    parsed = {field.message_type.name for message in RAW.values() for field in message.fields if field.message_type}
    assert parsed.isdisjoint({"ModelInferRequest", "ModelInferResponse", "Status"})
    assert set(RAW) == {f"Raw{name}" for name in set(PUBLIC) - {"Execution", "StreamLimits"}}
