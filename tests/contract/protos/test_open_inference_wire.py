"""Our Open Inference contract against facts taken from the descriptors of a public client.

`open_inference_facts.json` was dumped from tritonclient, which can't share an environment with our protobuf.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from inference import open_inference_pb2

FACTS: dict[str, Any] = json.loads(Path(__file__).with_name("open_inference_facts.json").read_text())
SCALARS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def _files(file: FileDescriptor) -> Iterator[FileDescriptor]:
    yield file
    for imported in file.dependencies:
        yield from _files(imported)


def _type_name(field: FieldDescriptor) -> str:
    declared = field.message_type or field.enum_type
    return declared.full_name if declared else SCALARS[field.type]


def _field(field: FieldDescriptor) -> dict[str, Any]:
    if field.message_type and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        declared = f"map<{_type_name(entry['key'])}, {_type_name(entry['value'])}>"
    else:
        declared = ("repeated " if field.is_repeated else "") + _type_name(field)
    facts: dict[str, Any] = {"number": field.number, "type": declared}
    if field.containing_oneof:
        facts["oneof"] = field.containing_oneof.name
    return facts


def _messages(message: Descriptor) -> Iterator[Descriptor]:
    if not message.GetOptions().map_entry:
        yield message
        for nested in message.nested_types:
            yield from _messages(nested)


OUR_FILES = {file.name: file for file in _files(open_inference_pb2.DESCRIPTOR)}.values()
OUR_MESSAGES: dict[str, Descriptor] = {
    message.full_name: message
    for file in OUR_FILES
    for top in file.message_types_by_name.values()
    for message in _messages(top)
}
OUR_ENUMS: dict[str, EnumDescriptor] = {
    enum.full_name: enum for owner in [*OUR_FILES, *OUR_MESSAGES.values()] for enum in owner.enum_types_by_name.values()
}


def test_service_has_the_rpcs_of_the_client_with_the_same_streaming() -> None:
    service = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    ours = {
        rpc.name: {
            "request": ("stream " if rpc.client_streaming else "") + rpc.input_type.full_name,
            "response": ("stream " if rpc.server_streaming else "") + rpc.output_type.full_name,
        }
        for rpc in service.methods
    }
    assert service.full_name == "inference.GRPCInferenceService"
    assert ours == FACTS["rpcs"]


def test_no_message_or_enum_is_missing_or_of_our_own() -> None:
    assert OUR_MESSAGES.keys() == FACTS["messages"].keys()
    assert OUR_ENUMS.keys() == FACTS["enums"].keys()


@pytest.mark.parametrize("name", sorted(FACTS["messages"]))
def test_message_fields_have_the_same_numbers_types_and_oneofs(name: str) -> None:
    assert {field.name: _field(field) for field in OUR_MESSAGES[name].fields} == FACTS["messages"][name]


@pytest.mark.parametrize("name", sorted(FACTS["enums"]))
def test_enum_values_have_the_same_numbers(name: str) -> None:
    assert {value.name: value.number for value in OUR_ENUMS[name].values} == FACTS["enums"][name]


def test_every_field_tracks_presence_as_the_client_expects() -> None:
    """proto3 `optional` on a scalar would add a synthetic oneof and change JSON output."""
    synthetic = [
        field.full_name
        for message in OUR_MESSAGES.values()
        for field in message.fields
        if field.containing_oneof and field.containing_oneof.name.startswith("_")
    ]
    assert synthetic == []
