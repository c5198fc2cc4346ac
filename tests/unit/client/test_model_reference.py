"""The text that names a model, and perhaps its version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_client.errors import ValidationError
from headrace_client.generation_request import encode_generate
from headrace_client.inference import InferRequest, encode_request
from headrace_client.model_reference import ModelReference, parse

PART = st.text(st.sampled_from("aZ09._-é"), min_size=1, max_size=20).filter(lambda text: not text.isdigit())
NUMBER = st.integers(1, (1 << 63) - 1)


@given(PART, st.sampled_from(":@"), st.one_of(NUMBER, PART), st.one_of(st.just(""), PART))
def test_what_a_reference_says_is_what_it_is_made_of(name: str, mark: str, version: int | str, variant: str) -> None:
    text = f"{name}{mark}{version}" + (f"+{variant}" if variant else "")
    reference = parse(text)
    assert reference == ModelReference(name, str(version), variant)
    assert reference.model_version == text.partition(mark)[2]
    assert parse(str(reference)) == reference
    assert reference.number == (version if isinstance(version, int) and not variant else None)


def test_without_a_version_it_is_the_newest() -> None:
    assert parse("resnet") == ModelReference("resnet")
    assert (parse("resnet").model_version, parse("resnet").number, str(parse("resnet"))) == ("", 0, "resnet")


@pytest.mark.parametrize(
    "text",
    [":", ":1", "@1", "m:", "m@", "m:1:2", "m@1:2", "m:0", "m:00", "m:+v", "m:1+", "m:1+a+b", "m:1+a:b", "m+v", "+"],
)
def test_a_part_too_many_or_too_few_is_told(text: str) -> None:
    with pytest.raises(ValidationError, match="names no model") as caught:
        parse(text, field="modelId")
    assert caught.value.field == "modelId"


@pytest.mark.parametrize("text", ["", f"m:{1 << 63}", f"m:{'9' * 100_000}", f"{'a' * 100_000}:"])
def test_sizes_have_ends_and_refusals_are_short(text: str) -> None:
    with pytest.raises(ValidationError, match="names no model") as caught:
        parse(text, field="modelId")
    assert caught.value.field == "modelId"
    assert len(str(caught.value)) < 400


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except ValidationError:
        return
    assert reference.name
    assert parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("model", "version", "named"),
    [
        ("m", "", ("m", "")),
        ("m", 3, ("m", "3")),
        ("m", "staging", ("m", "staging")),
        ("m:3", "", ("m", "3")),
        ("m@staging", 0, ("m", "staging")),
        ("m:3+int8", "", ("m", "3+int8")),
    ],
)
def test_requests_take_references(model: str, version: str | int, named: tuple[str, str]) -> None:
    request = encode_request(InferRequest(model, {}, version=version)).request
    assert (request.model_name, request.model_version) == named
    generate = encode_generate(model, "Once", {"version": version})
    assert (generate.model_name, generate.model_version) == named


def test_requests_with_two_versions_are_refused() -> None:
    with pytest.raises(ValidationError, match="beside the version 4") as caught:
        encode_request(InferRequest("m:3", {}, version=4))
    assert caught.value.field == "model"
    with pytest.raises(ValidationError) as caught:
        encode_generate("m:", "Once", {})
    assert caught.value.field == "model_name"
