"""Output tensors for programs and for people."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from headrace_cli.tensor_output import Output, as_json, preview, top_classes


def output(array: Any, datatype: str = "FP32") -> Output:
    return Output(name="y", datatype=datatype, array=array)


def elements(*values: bytes) -> Output:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return output(array, "BYTES")


@given(st_numpy.arrays(np.float32, st_numpy.array_shapes(min_dims=0, max_dims=3), elements=st.floats(width=32)))
def test_floats_are_strict_json_and_come_back(array: Any) -> None:
    document = json.loads(json.dumps(as_json(output(array)), allow_nan=False))
    back = np.array(document["data"], dtype=np.float32).reshape(document["shape"])
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=10))
def test_texts_are_texts(texts: list[str]) -> None:
    document = as_json(elements(*(text.encode() for text in texts)))
    assert document["data"] == texts
    assert "encoding" not in document


def test_one_element_that_is_no_text_makes_all_base64() -> None:
    document = as_json(elements(b"ab", b"\xff"))
    assert (document["data"], document["encoding"]) == (["YWI=", "/w=="], "base64")


def test_numbers_that_json_lacks_are_texts() -> None:
    document = as_json(output(np.array([1.5, np.nan, np.inf, -np.inf], np.float16), "FP16"))
    assert document["data"] == [1.5, "NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize(("shape", "data"), [((0,), []), ((2, 0), [[], []]), ((), 0.0)])
def test_empty_tensors_and_scalars_keep_their_shape(shape: tuple[int, ...], data: object) -> None:
    document = as_json(output(np.zeros(shape, np.float32)))
    assert (document["shape"], document["data"]) == (list(shape), data)


def test_long_outputs_are_cut_and_counted() -> None:
    assert preview(output(np.arange(100, dtype=np.float32))) == "0, 1, 2, 3, 4, 5, 6, 7 … 92 more"


def test_bytes_are_shown_as_far_as_they_are_text() -> None:
    assert preview(elements(b"a\x1b[31m", b"\xff")) == "'a\\x1b[31m', '\N{REPLACEMENT CHARACTER}'"


def test_classes_are_named_per_row_only_where_the_last_axis_fits() -> None:
    scores = output(np.array([[0.1, 0.7, 0.2]], np.float32))
    (row,) = top_classes(scores, ["a", "b", "c"])
    assert [label for label, _ in row] == ["b", "c", "a"]
    assert top_classes(scores, ["a", "b"]) == []
