"""What a person may give for inputs and parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_cli.inference_call import Asked, build_request
from headrace_cli.tensor_input import InputArgument, parse_input_argument, parse_parameter, read_source
from headrace_client import Tensor
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2
from headrace_client.errors import ValidationError
from headrace_client.inference import encode_request


def read(source: str, *, stdin: bytes = b"") -> Any:
    return read_source(source, read_stdin=lambda: stdin)


def manifest(**inputs: str) -> manifest_pb2.Manifest:
    """A model's inputs with their datatypes."""
    made = manifest_pb2.Manifest()
    for name, datatype in inputs.items():
        made.inputs.add(name=name, datatype=datatype, shape=[-1])
    return made


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("x=@rows.npy", "x", "@rows.npy"),
        ("x=[[1, 2]]", "x", "[[1, 2]]"),
        ("x=-", "x", "-"),
        ("x=-1.5", "x", "-1.5"),
        ("[1, 2]", None, "[1, 2]"),
        ("@a=b.npy", None, "@a=b.npy"),
        ('["a=b"]', None, '["a=b"]'),
        ("-", None, "-"),
        ('x="a=b"', "x", '"a=b"'),
    ],
)
def test_arguments_are_split_into_name_and_source(text: str, name: str | None, source: str) -> None:
    assert parse_input_argument(text) == InputArgument(name=name, source=source)


def test_files_are_told_apart_by_their_content(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "rows", rows)
    (tmp_path / "rows.txt").write_text(json.dumps(rows.tolist()))
    assert np.array_equal(read(f"@{tmp_path / 'rows.npy'}"), rows)
    assert read(f"@{tmp_path / 'rows.txt'}") == rows.tolist()
    assert np.array_equal(read("-", stdin=(tmp_path / "rows.npy").read_bytes()), rows)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n.", b"\xff\xd8\xff.", b"RIFF....WEBPVP8 "])
def test_a_picture_is_one_element_of_the_raw_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "picture").write_bytes(content)
    known = manifest(image="BYTES", x="FP32")
    with pytest.raises(ValidationError, match="write NAME=VALUE"):
        build_request(Asked(model="m", inputs=[f"@{tmp_path / 'picture'}"]), known)
    known.processing.image.input = "image"
    message = encode_request(build_request(Asked(model="m", inputs=[f"@{tmp_path / 'picture'}"]), known)).request
    assert [(one.name, one.datatype, list(one.shape)) for one in message.inputs] == [("image", "BYTES", [1])]
    assert message.raw_input_contents[0] == len(content).to_bytes(4, "little") + content


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("@/nowhere/x.npy", "can't be read: No such file"),
        ("@/", "can't be read: Is a directory"),
        ("[1,", "neither JSON nor an NPY"),
        ("", "neither JSON nor an NPY"),
        ("\udcff", "neither JSON nor an NPY"),
        ("[" * 100_000, "neither JSON nor an NPY"),
        ("-", "standard input is neither"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_sources_that_can_not_be_read_are_refused(source: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        read(source)


@pytest.mark.parametrize("kept", [0, 1, 7, 12, 60, 127])
def test_an_npy_file_that_is_cut_off_is_refused_wherever(kept: int, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones(8, np.float32))
    content = (tmp_path / "rows.npy").read_bytes()
    (tmp_path / "cut").write_bytes(content[:kept])
    with pytest.raises(ValidationError, match=r"neither JSON|not an NPY"):
        read(f"@{tmp_path / 'cut'}")


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones(8, np.float32))
    content = (tmp_path / "rows.npy").read_bytes()
    (tmp_path / "more").write_bytes(content.replace(b"(8,), }" + b" " * 12, b"(8" + b"0" * 12 + b",), }"))
    with pytest.raises(ValidationError, match="not an NPY file"):
        read(f"@{tmp_path / 'more'}")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValidationError, match="not an NPY file of numbers"):
        read(f"@{tmp_path / 'evil.npy'}")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("n=7", "n", 7),
        ("n=-1.5", "n", -1.5),
        ("on=true", "on", True),
        ("mode=fast", "mode", "fast"),
        ('mode="7"', "mode", "7"),
        ("mode=", "mode", ""),
        ("mode=[1]", "mode", "[1]"),
        ("mode=null", "mode", "null"),
        ("where=a=b", "where", "a=b"),
    ],
)
def test_parameters_are_numbers_bools_and_texts(text: str, name: str, value: object) -> None:
    assert parse_parameter(text) == (name, value)
    assert type(parse_parameter(text)[1]) is type(value)


@pytest.mark.parametrize("text", ["n", "=7", ""])
def test_a_parameter_needs_a_name_and_a_value(text: str) -> None:
    with pytest.raises(ValidationError, match="write NAME=VALUE"):
        parse_parameter(text)


def test_inputs_get_the_datatypes_of_the_model() -> None:
    asked = Asked(model="m:3", inputs=["a=[1, 2]", 'b=["x"]', "c=5"], parameters=["p=1"], priority=2, request_id="r")
    request = build_request(asked, manifest(a="FP16", b="BYTES", c="INT64"))
    assert (request.model, request.version, request.parameters, request.priority) == ("m", 3, {"p": 1}, 2)
    message = encode_request(request).request
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in message.inputs] == [
        ("a", "FP16", [2]),
        ("b", "BYTES", [1]),
        ("c", "INT64", []),
    ]
    assert message.raw_input_contents[2] == (5).to_bytes(8, "little")


@pytest.mark.parametrize("datatype", ["BYTES", "FP32", "BOOL"])
def test_an_empty_list_has_the_datatype_of_the_model(datatype: str) -> None:
    request = build_request(Asked(model="m", inputs=["words=[]"]), manifest(words=datatype))
    (tensor,) = encode_request(request).request.inputs
    assert (tensor.datatype, list(tensor.shape)) == (datatype, [0])


def test_the_only_input_needs_no_name() -> None:
    request = build_request(Asked(model="m", inputs=["[1]"]), manifest(x="UINT8"))
    tensor = request.inputs["x"]
    assert isinstance(tensor, Tensor)
    assert (tensor.values, tensor.datatype) == ([1], "UINT8")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["[1]"], "has 2 inputs .a, b.: write NAME=VALUE"),
        (["c=[1]"], "no input 'c', only a, b"),
        (["a=[1]", "a=[2]"], "input 'a' is given twice"),
        (["a=-", "b=-"], "one input only"),
    ],
)
def test_inputs_that_the_model_can_not_take_are_refused(inputs: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build_request(Asked(model="m", inputs=inputs), manifest(a="FP32", b="FP32"))
