"""Manifests from messages, mappings and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace_client.contracts.headrace.registry.v1.manifest_pb2 import MODEL_TASK_EMBED, POOLING_LAST, Manifest
from headrace_client.errors import ModelError
from headrace_client.manifests import read_manifest

FIELDS = {"description": "d", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}


def test_a_message_is_taken_as_it_is() -> None:
    message = Manifest(description="d")
    assert read_manifest(message) is message


def test_mappings_and_files_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(FIELDS))
    (tmp_path / "m.yaml").write_text("description: d\ninputs:\n- {name: x, datatype: FP32, shape: [-1, 2]}\n")
    wanted = read_manifest(FIELDS)
    assert (wanted.description, list(wanted.inputs[0].shape)) == ("d", [-1, 2])
    assert read_manifest(tmp_path / "m.json") == read_manifest(tmp_path / "m.yaml") == wanted


@pytest.mark.parametrize(
    ("name", "content"),
    [("m.json", "{"), ("m.json", "[]"), ("m.yaml", "a: ["), ("m.yaml", "text"), ("m.yaml", "unknown: 1")],
)
def test_what_is_no_manifest_is_refused_with_the_files_name(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ModelError, match=name) as caught:
        read_manifest(path)
    assert caught.value.reason == "MODEL_MANIFEST_INVALID"


def test_an_unknown_field_of_a_mapping_is_named() -> None:
    with pytest.raises(ModelError, match="replica_count"):
        read_manifest({"replica_count": 2})


def test_fields_of_language_models_are_read(tmp_path: Path) -> None:
    text = """
task: MODEL_TASK_EMBED
language: {context_length: 512, slots: 1, pooling: POOLING_LAST, chat_template: "{{ messages }}"}
"""
    (tmp_path / "model.yaml").write_text(text)
    manifest = read_manifest(tmp_path / "model.yaml")
    assert manifest.task == MODEL_TASK_EMBED
    language = manifest.language
    assert (language.context_length, language.pooling, language.chat_template) == (512, POOLING_LAST, "{{ messages }}")
    with pytest.raises(ModelError, match="POOLING_MOST"):
        read_manifest({"language": {"pooling": "POOLING_MOST"}})
