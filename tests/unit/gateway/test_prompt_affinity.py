"""Requests that begin alike go to the same replica, as long as that one is not much busier than others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.v1 import generation_pb2 as generation
from headrace_common.errors import HeadraceError
from headrace_gateway.inference.generation.prompt_affinity import Place, pick, weight
from headrace_gateway.inference.generation.prompt_fields import prompt_affinity, read_generate
from inference import open_inference_pb2 as oip

PLACES = st.lists(
    st.builds(
        Place,
        runner_id=st.uuids().map(str),
        rank=st.integers(0, 2),
        calls=st.integers(0, 40),
        slots=st.integers(1, 16),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda place: place.runner_id,
)
AFFINITIES = st.binary(min_size=8, max_size=8)


@given(AFFINITIES, PLACES, st.floats(0, 4))
def test_no_place_is_taken_that_is_much_busier_than_another_one_or_full_while_another_is_not(
    affinity: bytes, places: list[Place], slack: float
) -> None:
    found = places[pick(affinity, places, slack)]
    free = [place for place in places if place.calls < place.slots]
    alike = [place for place in free if place.rank == found.rank] if free else places
    assert found in alike
    assert found.load <= min(place.load for place in alike) + slack
    assert not free or found.rank == min(place.rank for place in free)


@given(AFFINITIES, PLACES, st.floats(0, 4))
def test_the_order_of_the_places_says_nothing(affinity: bytes, places: list[Place], slack: float) -> None:
    found = places[pick(affinity, places, slack)]
    shuffled = sorted(places, key=lambda place: weight(b"other", place.runner_id))
    assert shuffled[pick(affinity, shuffled, slack)] == found


@given(AFFINITIES, PLACES)
def test_a_place_that_goes_moves_only_its_own_calls(affinity: bytes, places: list[Place]) -> None:
    idle = [place._replace(calls=0, rank=0) for place in places]
    found = idle[pick(affinity, idle, 0.5)]
    for gone in idle:
        left = [place for place in idle if place is not gone]
        if gone is not found:
            assert left[pick(affinity, left, 0.5)] is found


def test_affinities_are_spread_over_the_places() -> None:
    places = [Place(f"runner-{number}", 0, 0, 8) for number in range(4)]
    taken = [pick(number.to_bytes(8, "big"), places, 0.5) for number in range(400)]
    assert all(60 <= taken.count(index) <= 140 for index in range(4))


def fields_of(**fields: object) -> bytes:
    request = generation.GenerateRequest(model_name="m", **fields)  # pyright: ignore[reportArgumentType]
    return read_generate(request.SerializeToString()).affinity


def chat(*messages: tuple[str, str]) -> generation.ChatPrompt:
    return generation.ChatPrompt(
        messages=[generation.ChatMessage(role=role, content=content) for role, content in messages]
    )


def test_prompts_that_begin_alike_belong_together() -> None:
    system = "x" * 256
    assert fields_of(text=system + "a") == fields_of(text=system + "b") != fields_of(text="y" + system)
    long, other = [7] * 300, [8] * 300
    assert fields_of(token_ids={"ids": long}) == fields_of(token_ids={"ids": [*long, 9]})
    assert fields_of(token_ids={"ids": long}) != fields_of(token_ids={"ids": other})
    assert fields_of(text="a", session="s") == fields_of(text="b", session="s") != fields_of(text="s")
    assert fields_of() == b""


def test_the_turns_of_a_conversation_belong_together() -> None:
    opening = (("system", "be brief"), ("user", "hi"))
    first = fields_of(chat=chat(*opening))
    assert first == fields_of(chat=chat(*opening, ("assistant", "hello"), ("user", "how are you?")))
    assert first != fields_of(chat=chat(("system", "be brief"), ("user", "hey")))
    long = ("system", "x" * 300)
    assert fields_of(chat=chat(long, ("user", "a"))) == fields_of(chat=chat(long, ("user", "b")))
    document = "x" * 256
    assert fields_of(chat=chat(("user", document))) == fields_of(chat=chat(("user", document + "?" * 300)))


def test_of_an_inference_the_text_input_counts() -> None:
    def request(text: bytes, *names: str) -> bytes:
        tensors = [oip.ModelInferRequest.InferInputTensor(name=name) for name in names]
        element = len(text).to_bytes(4, "little") + text
        raw = [element if name == "text_input" else b"\1" for name in names]
        return oip.ModelInferRequest(model_name="m", inputs=tensors, raw_input_contents=raw).SerializeToString()

    assert prompt_affinity(request(b"once", "text_input")) == prompt_affinity(request(b"once", "stream", "text_input"))
    assert prompt_affinity(request(b"once", "text_input")) != prompt_affinity(request(b"twice", "text_input"))
    beginning = b"x" * 400
    assert prompt_affinity(request(beginning + b"a", "text_input")) == prompt_affinity(
        request(beginning + b"more", "text_input")
    )
    assert prompt_affinity(request(b"", "stream")) == b"" == prompt_affinity(request(b"", "text_input"))
    assert prompt_affinity(oip.ModelInferRequest(inputs=[{"name": "text_input"}]).SerializeToString()) == b""  # pyright: ignore


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "a"}, "FIELD_REQUIRED"),
        ({"model_name": "m", "priority": 10}, "FIELD_INVALID"),
        ({"model_name": "m", "session": "s" * 129}, "FIELD_TOO_LONG"),
    ],
)
def test_what_the_gateway_reads_it_checks(fields: dict[str, object], reason: str) -> None:
    request = generation.GenerateRequest(**fields)  # pyright: ignore[reportArgumentType]
    with pytest.raises(HeadraceError) as refused:
        read_generate(request.SerializeToString())
    assert refused.value.reason == reason


@given(st.binary(max_size=200))
def test_noise_is_refused_or_read(noise: bytes) -> None:
    try:
        read_generate(noise)
    except HeadraceError as refused:
        assert refused.entry.grpc == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("fields", "can_continue"),
    [
        ({}, True),
        ({"continue_elsewhere": True, "completions": 1, "sampling": {"stop": ["."], "temperature": 0.5}}, True),
        ({"continue_elsewhere": False}, False),
        ({"completions": 2}, False),
        ({"sampling": {"grammar": "root ::= 'a'"}}, False),
        ({"sampling": {"json_schema": "{}"}}, False),
    ],
)
def test_only_one_free_completion_can_be_continued(fields: dict[str, object], can_continue: bool) -> None:
    request = generation.GenerateRequest(model_name="m", **fields)  # pyright: ignore[reportArgumentType]
    assert read_generate(request.SerializeToString()).can_continue is can_continue
