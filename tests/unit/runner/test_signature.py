"""Requests that do not fit a model: each has its own code and names what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_runner.tensors.infer_request import InferRequest, RequestTensor
from headrace_runner.tensors.sequence_parameters import SequenceUse
from headrace_runner.tensors.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=[
        TensorSpec("pixels", "FP32", (-1, 4)),
        TensorSpec("names", "BYTES", (-1,)),
        TensorSpec("scale", "FP16", (), optional=True),
    ],
    outputs=[TensorSpec("scores", "FP32", (-1, 2)), TensorSpec("labels", "BYTES", (-1,))],
)
PIXELS = RequestTensor("pixels", "FP32", (2, 4), memoryview(bytes(32)), ())
NAMES = RequestTensor("names", "BYTES", (2,), memoryview(bytes(8)), ())
SCALE = RequestTensor("scale", "FP16", (), memoryview(bytes(2)), ())


def request(*inputs: RequestTensor, outputs: Sequence[str] = ()) -> InferRequest:
    return InferRequest("", inputs, tuple(outputs), len(inputs), ())


def refused(*inputs: RequestTensor, outputs: Sequence[str] = ()) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        SIGNATURE.check(request(*inputs, outputs=outputs))
    return caught.value


def pixels(
    *, datatype: str = "FP32", shape: tuple[int, ...] = (2, 4), raw: int | None = 32, contents: bytes = b""
) -> RequestTensor:
    parts = (memoryview(contents),) if contents else ()
    return RequestTensor("pixels", datatype, shape, None if raw is None else memoryview(bytes(raw)), parts)


def test_a_fitting_request_gets_all_outputs_in_the_models_order() -> None:
    assert SIGNATURE.check(request(PIXELS, NAMES)) == ("scores", "labels")
    assert SIGNATURE.check(request(NAMES, SCALE, PIXELS)) == ("scores", "labels")


def test_wanted_outputs_come_in_the_order_asked_for() -> None:
    assert SIGNATURE.check(request(PIXELS, NAMES, outputs=["labels"])) == ("labels",)
    assert SIGNATURE.check(request(PIXELS, NAMES, outputs=["labels", "scores"])) == ("labels", "scores")


def test_an_unknown_or_repeated_output_is_refused() -> None:
    error = refused(PIXELS, NAMES, outputs=["scores", "logits"])
    assert error.entry is catalogue.TENSOR_OUTPUT_UNKNOWN
    assert "'logits'" in error.message
    assert "'scores'" in error.message
    assert error.field == "outputs[1].name"
    assert refused(PIXELS, NAMES, outputs=["scores", "scores"]).entry is catalogue.TENSOR_DUPLICATED


def test_an_unknown_input_is_refused_with_the_names_that_exist() -> None:
    error = refused(PIXELS, NAMES, RequestTensor("mask", "FP32", (1,), memoryview(bytes(4)), ()))
    assert error.entry is catalogue.TENSOR_NAME_UNKNOWN
    assert "'mask'" in error.message
    assert "'pixels'" in error.message


def test_a_missing_input_is_refused_by_name() -> None:
    error = refused(PIXELS)
    assert error.entry is catalogue.TENSOR_MISSING
    assert error.context == {"tensor": "names"}


def test_a_repeated_input_is_refused() -> None:
    assert refused(PIXELS, NAMES, PIXELS).entry is catalogue.TENSOR_DUPLICATED


@pytest.mark.parametrize(
    ("tensor", "entry", "said"),
    [
        (pixels(datatype="FLOAT"), catalogue.TENSOR_DATATYPE_UNSUPPORTED, "'FLOAT'"),
        (pixels(datatype="FP64"), catalogue.TENSOR_DATATYPE_MISMATCH, "FP32"),
        (pixels(shape=(2, 5)), catalogue.TENSOR_SHAPE_MISMATCH, "[-1, 4]"),
        (pixels(shape=(8,)), catalogue.TENSOR_SHAPE_MISMATCH, "[8]"),
        (pixels(shape=()), catalogue.TENSOR_SHAPE_MISMATCH, "[]"),
        (pixels(shape=(-1, 4)), catalogue.TENSOR_DIMENSION_INVALID, "negative"),
        (pixels(shape=(2**62, 4)), catalogue.TENSOR_DIMENSION_INVALID, "elements"),
        (pixels(shape=(0, 2**63 - 1)), catalogue.TENSOR_DIMENSION_INVALID, "elements"),
        (pixels(raw=31), catalogue.TENSOR_BYTES_MISMATCH, "32"),
        (pixels(raw=33), catalogue.TENSOR_BYTES_MISMATCH, "33"),
        (pixels(raw=0), catalogue.TENSOR_BYTES_MISMATCH, "32"),
        (pixels(raw=None), catalogue.TENSOR_CONTENT_MISSING, "'pixels'"),
        (RequestTensor("names", "BYTES", (3,), memoryview(bytes(11)), ()), catalogue.TENSOR_BYTES_MISMATCH, "12"),
        (RequestTensor("scale", "FP16", (), None, ()), catalogue.TENSOR_CONTENT_MISSING, "raw_input_contents"),
        (
            RequestTensor("scale", "FP16", (), None, (memoryview(b"\x08\x01"),)),
            catalogue.TENSOR_CONTENT_TYPE_MISMATCH,
            "raw_input_contents",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_has_its_own_code(
    tensor: RequestTensor, entry: catalogue.CatalogueEntry, said: str
) -> None:
    others = [other for other in (PIXELS, NAMES) if other.name != tensor.name]
    error = refused(tensor, *others)
    assert error.entry is entry
    assert f"'{tensor.name}'" in error.message
    assert said in error.message
    assert error.context["tensor"] == tensor.name


def test_tensors_without_elements_need_no_content() -> None:
    empty = RequestTensor("pixels", "FP32", (0, 4), None, ())
    assert SIGNATURE.check(request(empty, RequestTensor("names", "BYTES", (0,), None, ())))


KEEPING = Signature(
    inputs=[TensorSpec("x", "INT8", (1,)), TensorSpec("state", "INT8", (1,))],
    outputs=[TensorSpec("y", "INT8", (1,)), TensorSpec("next", "INT8", (1,))],
    states={"state": "next"},
)
X, STATE = (RequestTensor(name, "INT8", (1,), memoryview(b"1"), ()) for name in ("x", "state"))


def of_sequence(*inputs: RequestTensor, outputs: Sequence[str] = ()) -> InferRequest:
    return request(*inputs, outputs=outputs)._replace(sequence=SequenceUse(7))


def test_state_of_a_sequence_need_not_come_and_comes_back_where_it_is_wanted() -> None:
    assert KEEPING.check(of_sequence(X)) == ("y",)
    assert KEEPING.check(of_sequence(X, STATE)) == ("y",)
    assert KEEPING.check(of_sequence(X, outputs=("next", "y"))) == ("next", "y")
    assert KEEPING.check(request(X, STATE)) == ("y", "next")


def test_state_is_the_caller_s_without_a_sequence_and_everything_else_always() -> None:
    for bad, tensor in ((request(X), "state"), (of_sequence(STATE), "x")):
        with pytest.raises(HeadraceError) as caught:
            KEEPING.check(bad)
        assert (caught.value.entry, caught.value.context["tensor"]) == (catalogue.TENSOR_MISSING, tensor)
        assert ("sequence_id" in caught.value.message) == (tensor == "state")


def test_a_sequence_means_nothing_to_a_model_without_state() -> None:
    assert not SIGNATURE.in_sequence(of_sequence(PIXELS, NAMES))
    assert SIGNATURE.check(of_sequence(PIXELS, NAMES)) == ("scores", "labels")
