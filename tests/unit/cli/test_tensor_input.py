"""What a person may give for an input tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from headrace_cli.tensor_input import InputArgument, parse_input_argument, read_source, to_array, to_raw
from headrace_cli.tensor_output import Output, as_json, preview, read_outputs, top_classes
from headrace_common.errors import ValidationError
from inference import open_inference_pb2


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
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows.tolist()))
    assert np.array_equal(read_source(f"@{tmp_path / 'rows.npy'}"), rows)
    assert read_source(f"@{tmp_path / 'rows.json'}") == rows.tolist()


@pytest.mark.parametrize(
    ("source", "message"), [("@/nowhere/x.npy", "can't be read"), ("[1,", "neither JSON nor an NPY")]
)
def test_sources_that_can_not_be_read_are_refused(source: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        read_source(source)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValidationError, match="not an NPY file of numbers"):
        read_source(f"@{tmp_path / 'evil.npy'}")


@pytest.mark.parametrize(
    ("value", "datatype", "message"),
    [
        ([[1], [1, 2]], "FP32", "different lengths"),
        ([300], "UINT8", "holds 0 to 255 only"),
        ([-1], "UINT64", "holds 0 to"),
        ([1.5], "INT64", "fractions"),
        ([True], "INT64", "booleans"),
        ([1], "BOOL", "booleans"),
        (["a"], "FP32", "needs numbers"),
        ([1], "BYTES", "needs texts"),
        ([1], "INT7", "not known here"),
        (10**30, "INT64", "needs numbers"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_input_name(value: Any, datatype: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as refused:
        to_array(value, datatype=datatype, name="x")
    assert "'x'" in refused.value.message


def test_whole_numbers_fit_a_floating_input() -> None:
    array = to_array([[1, 2]], datatype="FP32", name="x")
    assert array.dtype == np.float32
    assert array.shape == (1, 2)


def test_a_scalar_has_no_axes() -> None:
    assert to_array(16000, datatype="INT64", name="sr").shape == ()


def answer(datatype: str, array: Any, raw: bytes) -> Output:
    response = open_inference_pb2.ModelInferResponse(raw_output_contents=[raw])
    response.outputs.add(name="y", datatype=datatype, shape=array.shape)
    return read_outputs(response)[0]


@given(st_numpy.arrays(np.float32, st_numpy.array_shapes(min_dims=0, max_dims=3), elements=st.floats(width=32)))
def test_floats_come_back_bit_for_bit(array: Any) -> None:
    back = answer("FP32", array, to_raw(to_array(array, datatype="FP32", name="x"), datatype="FP32"))
    assert back.array.tobytes() == array.tobytes()
    assert back.array.shape == array.shape


@given(st.lists(st.text() | st.binary().map(lambda raw: raw.hex()), max_size=20))
def test_texts_come_back(texts: list[str]) -> None:
    array = to_array(texts, datatype="BYTES", name="x")
    back = answer("BYTES", array, to_raw(array, datatype="BYTES"))
    assert as_json(back)["data"] == texts


@pytest.mark.parametrize(("value", "kept"), [(1.0, 1.0), (1.00390625, 1.0), (1.01171875, 1.015625), (-2.5, -2.5)])
def test_bf16_rounds_to_the_nearest_even(value: float, kept: float) -> None:
    array = to_array([value], datatype="BF16", name="x")
    assert answer("BF16", array, to_raw(array, datatype="BF16")).array.tolist() == [kept]


def test_an_answer_with_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValidationError, match="output 'y' of the answer can't be read"):
        answer("FP32", np.zeros(3), b"\0" * 8)


def test_long_outputs_are_cut_and_counted() -> None:
    shown = preview(Output(name="y", datatype="FP32", array=np.arange(100, dtype=np.float32)))
    assert shown == "0, 1, 2, 3, 4, 5, 6, 7 … 92 more"


def test_classes_are_named_per_row_only_where_the_last_axis_fits() -> None:
    scores = Output(name="y", datatype="FP32", array=np.array([[0.1, 0.7, 0.2]], np.float32))
    (row,) = top_classes(scores, ["a", "b", "c"])
    assert [label for label, _ in row] == ["b", "c", "a"]
    assert top_classes(scores, ["a", "b"]) == []
