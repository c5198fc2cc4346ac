"""What the runner takes of requests to generate, and what it refuses, in both protocols."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.runner.internal.v1.mesh_pb2 import GenerateCall
from headrace_common import catalogue, wire
from headrace_common.catalogue import CatalogueEntry
from headrace_common.errors import HeadraceError
from headrace_runner.backends.generation import Chat, ChatMessage, Sampling
from headrace_runner.execution.generation import request as request_module
from headrace_runner.execution.generation.entries import ENTRIES_MAX
from headrace_runner.execution.generation.request import (
    GenerationRequest,
    ModelLimits,
    as_sent,
    read_generate_call,
    tokens_left,
)
from headrace_runner.execution.generation.sampling import TOKENS_MAX, invalid
from headrace_runner.execution.generation.triton_request import read_triton_request
from inference import open_inference_pb2 as oip

LIMITS = ModelLimits(name="m:1", slots=4, context_length=32)
SEED = 1234


def read(request: pb.GenerateRequest, *, emitted: tuple[int, ...] = ()) -> GenerationRequest:
    payload = GenerateCall(request=request, emitted=emitted).SerializeToString()
    return read_generate_call(payload, LIMITS, lambda: SEED)


def asked(**sampling: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(text="hi", sampling=pb.SamplingParameters(**sampling))


def triton(text: bytes = b"hi", **tensors: Any) -> oip.ModelInferRequest:
    """A request with the prompt, `sampling_parameters` as JSON or bytes, and flags."""
    request = oip.ModelInferRequest(id="r")
    values = {"text_input": text, **tensors}
    for name, value in values.items():
        if isinstance(value, bool):
            request.inputs.add(name=name, datatype="BOOL", shape=[1])
            request.raw_input_contents.append(bytes([value]))
        else:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            request.inputs.add(name=name, datatype="BYTES", shape=[1])
            request.raw_input_contents.append(len(raw).to_bytes(4, "little") + raw)
    return request


def read_triton(request: oip.ModelInferRequest) -> GenerationRequest:
    return read_triton_request(request.SerializeToString(), LIMITS, lambda: SEED)


def said(parameters: object) -> oip.ModelInferRequest:
    return triton(sampling_parameters=parameters)


def with_parameter(name: str, **value: Any) -> oip.ModelInferRequest:
    request = triton()
    request.parameters[name].CopyFrom(oip.InferParameter(**value))
    return request


def refusal(read_it: Callable[[], object]) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        read_it()
    return caught.value


def test_what_is_not_said_has_its_default() -> None:
    request = read(asked())
    assert request == GenerationRequest(id="", prompt="hi", sampling=Sampling(max_tokens=TOKENS_MAX, seed=SEED))


def test_everything_that_can_be_said_arrives() -> None:
    sampling = pb.SamplingParameters(
        max_tokens=7,
        temperature=0.5,
        top_p=0.25,
        top_k=40,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-2,
        frequency_penalty=2,
        stop=["\n", "end"],
        seed=9,
        logit_bias={3: -100, 5: 2},
        ignore_end=True,
    )
    request = read(
        pb.GenerateRequest(
            id="mine",
            token_ids=pb.TokenIds(ids=[1, 2]),
            sampling=sampling,
            completions=3,
            top_logprobs=0,
            report_progress=True,
        )
    )
    assert request == GenerationRequest(
        id="mine",
        prompt=[1, 2],
        completions=3,
        report_progress=True,
        sampling=Sampling(
            max_tokens=7,
            temperature=0.5,
            top_p=0.25,
            top_k=40,
            min_p=0.125,
            repetition_penalty=1.5,
            presence_penalty=-2,
            frequency_penalty=2,
            stop=("\n", "end"),
            seed=9,
            logit_bias={3: -100, 5: 2},
            ignore_end=True,
            top_logprobs=0,
        ),
    )
    assert read(asked(json_schema="{}")).sampling.json_schema == "{}"


def test_a_temperature_that_no_logits_can_be_divided_by_counts_as_none() -> None:
    told = [read(asked(temperature=value)).sampling.temperature for value in (1e-45, 9e-5, 2e-4)]
    assert told == [0, 0, pytest.approx(2e-4)]


@pytest.mark.parametrize("constraint", [{"json_schema": "{}"}, {"grammar": "root ::="}])
def test_what_must_fit_has_an_end(constraint: dict[str, str]) -> None:
    assert refusal(lambda: read(asked(ignore_end=True, **constraint))).field == "sampling.ignore_end"
    assert refusal(lambda: read_triton(said({"ignore_end": True, **constraint}))).entry is catalogue.FIELD_INVALID
    assert not read(asked(ignore_end=False, **constraint)).sampling.ignore_end


def test_a_conversation_keeps_its_order_and_says_whether_to_begin_an_answer() -> None:
    messages = [pb.ChatMessage(role="system", content="s"), pb.ChatMessage(role="user")]
    request = read(pb.GenerateRequest(chat=pb.ChatPrompt(messages=messages)))
    assert request.prompt == Chat(messages=[ChatMessage("system", "s"), ChatMessage("user", "")])
    continued = pb.ChatPrompt(messages=messages, add_generation_prompt=False)
    assert read(pb.GenerateRequest(chat=continued)).prompt == Chat(
        messages=[ChatMessage("system", "s"), ChatMessage("user", "")], add_generation_prompt=False
    )


@pytest.mark.parametrize(
    ("name", "good", "bad", "says"),
    [
        ("max_tokens", [1, 2**32 - 1], [0], "1"),
        ("temperature", [0, 5], [-0.1, 5.1, nan, inf, -inf], "0 to 5"),
        ("top_p", [0.01, 1], [0, 1.1, nan], "above 0, at most 1"),
        ("top_k", [0, 100_000], [100_001], "0 to 100000"),
        ("min_p", [0, 1], [-0.1, 1.1, nan], "0 to 1"),
        ("repetition_penalty", [0.01, 5], [0, 1e-30, 0.0099, 5.1, inf], "0.01 to 5"),
        ("presence_penalty", [-2, 2], [-2.1, 2.1], "-2 to 2"),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1], "-2 to 2"),
        ("seed", [0, 2**32 - 2], [2**32 - 1], "0 to 4294967294"),
    ],
)
def test_every_number_has_its_range_in_both_protocols(name: str, good: list[Any], bad: list[Any], says: str) -> None:
    for value in good:
        assert getattr(read(asked(**{name: value})).sampling, name) == pytest.approx(value)
        assert getattr(read_triton(said({name: value})).sampling, name) == pytest.approx(value)
    for value in bad:
        for read_it, field in (
            (lambda value=value: read(asked(**{name: value})), f"sampling.{name}"),
            (lambda value=value: read_triton(said({name: value})), f"sampling_parameters.{name}"),
        ):
            error = refusal(read_it)
            assert error.entry is catalogue.FIELD_INVALID
            assert error.field == field
            assert says in error.message


@pytest.mark.parametrize(
    ("request_", "entry", "field"),
    [
        (asked(stop=["x" * (1 << 20)]), catalogue.FIELD_TOO_LONG, "sampling.stop[0]"),
        (asked(stop=["\u00e4" * 129]), catalogue.FIELD_TOO_LONG, "sampling.stop[0]"),
        (asked(stop=["x"] * 17), catalogue.FIELD_TOO_LONG, "sampling.stop"),
        (asked(stop=["x", ""]), catalogue.FIELD_INVALID, "sampling.stop[1]"),
        (asked(logit_bias={7: 100.5}), catalogue.FIELD_INVALID, "sampling.logit_bias[7]"),
        (asked(logit_bias={7: nan}), catalogue.FIELD_INVALID, "sampling.logit_bias[7]"),
        (asked(logit_bias=dict.fromkeys(range(1_025), 1)), catalogue.FIELD_TOO_LONG, "sampling.logit_bias"),
        (asked(json_schema=""), catalogue.FIELD_INVALID, "sampling.json_schema"),
        (asked(json_schema="x" * 65_537), catalogue.FIELD_TOO_LONG, "sampling.json_schema"),
        (asked(grammar="x" * 16_385), catalogue.FIELD_TOO_LONG, "sampling.grammar"),
        (pb.GenerateRequest(text="hi", top_logprobs=21), catalogue.FIELD_INVALID, "top_logprobs"),
        (pb.GenerateRequest(text="hi", completions=5), catalogue.FIELD_INVALID, "completions"),
        (pb.GenerateRequest(text="hi", id="x" * 257), catalogue.FIELD_TOO_LONG, "id"),
        (pb.GenerateRequest(), catalogue.FIELD_REQUIRED, "prompt"),
        (pb.GenerateRequest(text=""), catalogue.FIELD_REQUIRED, "text"),
        (pb.GenerateRequest(text="x" * (32 * 256 + 1)), catalogue.FIELD_TOO_LONG, "text"),
        (pb.GenerateRequest(token_ids=pb.TokenIds()), catalogue.FIELD_REQUIRED, "token_ids.ids"),
        (pb.GenerateRequest(chat=pb.ChatPrompt()), catalogue.FIELD_REQUIRED, "chat.messages"),
        (
            pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user")] * 1_025)),
            catalogue.FIELD_TOO_LONG,
            "chat.messages",
        ),
        (
            pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="wizard")])),
            catalogue.FIELD_INVALID,
            "chat.messages[0].role",
        ),
        (
            pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="x" * 8_193)])),
            catalogue.FIELD_TOO_LONG,
            "chat.messages",
        ),
    ],
    ids=str,
)
def test_requests_that_can_not_be_right_are_refused(
    request_: pb.GenerateRequest, entry: CatalogueEntry, field: str
) -> None:
    error = refusal(lambda: read(request_))
    assert (error.entry, error.field) == (entry, field)


def test_a_request_far_too_large_is_refused_unread() -> None:
    LIMITS.check_payload(bytes(32 * 256 + (2 << 20)))
    error = refusal(lambda: LIMITS.check_payload(bytes(3 << 20)))
    assert (error.entry, error.field) == (catalogue.FIELD_TOO_LONG, "prompt")


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        (
            "chat.messages",
            pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="u")] * (1 + ENTRIES_MAX // 2))),
        ),
        ("sampling", pb.GenerateRequest(text="hi", sampling=pb.SamplingParameters(stop=[""] * ENTRIES_MAX))),
        ("sampling.logit_bias", asked(logit_bias=dict.fromkeys(range(ENTRIES_MAX // 3), 1))),
        ("token_ids.ids", pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1] * 20_000))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lists_far_too_long_are_refused_unparsed(
    monkeypatch: pytest.MonkeyPatch, field: str, request_: pb.GenerateRequest
) -> None:
    monkeypatch.setattr(request_module, "GenerateCall", None)
    error = refusal(
        lambda: read_generate_call(GenerateCall(request=request_).SerializeToString(), LIMITS, lambda: SEED)
    )
    assert (error.entry, error.field) == (catalogue.FIELD_TOO_LONG, field)


def test_groups_hide_no_entries() -> None:
    group = b"\x0b" + b"\x08\x01" * 10_000 + b"\x0c"
    error = refusal(lambda: read_generate_call(wire.encode_len_field(1, group), LIMITS, lambda: SEED))
    assert error.entry is catalogue.REQUEST_MALFORMED


def test_errors_of_a_model_name_fields_as_they_were_sent() -> None:
    request = said({"json_schema": "{}"})
    request.parameters["seed"].int64_param = 1
    for path, sent in (
        ("sampling.json_schema", "sampling_parameters.json_schema"),
        ("sampling.seed", "parameters.seed"),
        ("prompt", "text_input"),
    ):
        error = invalid(path, "is bad")
        as_sent(error, read_triton(request))
        assert (error.field, error.context["field"], error.message) == (sent, sent, f"{sent} is bad")
        error = invalid(path, "is bad")
        as_sent(error, read(asked()))
        assert error.field == path


def test_more_tokens_than_the_context_are_refused_unread() -> None:
    error = refusal(lambda: read(pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1] * 32))))
    assert error.entry is catalogue.CONTEXT_LENGTH_EXCEEDED
    assert error.context == {"model": "m:1", "actual": 32, "limit": 32}


def test_bytes_that_are_no_message_or_no_text_are_refused() -> None:
    for payload in (b"\xff", GenerateCall(request=asked()).SerializeToString().replace(b"hi", b"\xff\xfe")):
        error = refusal(lambda payload=payload: read_generate_call(payload, LIMITS, lambda: SEED))
        assert error.entry is catalogue.REQUEST_MALFORMED


def test_only_one_completion_goes_on_elsewhere() -> None:
    assert read(asked(), emitted=(5, 6)).emitted == (5, 6)
    error = refusal(lambda: read(pb.GenerateRequest(text="hi", completions=2), emitted=(5,)))
    assert (error.entry, error.field) == (catalogue.FIELD_INVALID, "emitted")


@pytest.mark.parametrize(
    ("max_tokens", "prompt", "emitted", "left"),
    [(TOKENS_MAX, 30, 0, 2), (10, 30, 0, 2), (10, 20, 0, 10), (10, 20, 4, 6), (4, 20, 4, 0), (TOKENS_MAX, 30, 2, 0)],
)
def test_tokens_are_cut_to_the_room_in_the_context(max_tokens: int, prompt: int, emitted: int, left: int) -> None:
    request = read(asked(max_tokens=max_tokens), emitted=(1,) * emitted)
    assert tokens_left(request, prompt, LIMITS) == left


def test_a_prompt_without_room_for_a_token_is_refused() -> None:
    assert refusal(lambda: tokens_left(read(asked()), 32, LIMITS)).entry is catalogue.CONTEXT_LENGTH_EXCEEDED
    assert refusal(lambda: tokens_left(read(asked()), 0, LIMITS)).entry is catalogue.FIELD_REQUIRED


def test_tritons_form_of_the_plainest_request_streams_the_output_alone() -> None:
    request = read_triton(triton())
    assert (request.id, request.prompt, request.streams, request.echo) == ("r", "hi", True, "")
    assert request.sampling == Sampling(max_tokens=TOKENS_MAX, seed=SEED)


def test_without_streaming_the_output_begins_with_the_prompt_unless_told_not_to() -> None:
    assert read_triton(triton(stream=False)).echo == "hi"
    assert read_triton(triton(stream=False, exclude_input_in_output=True)).echo == ""
    error = refusal(lambda: read_triton(triton(stream=True, exclude_input_in_output=False)))
    assert (error.entry, error.field) == (catalogue.FIELD_INVALID, "exclude_input_in_output")


def test_json_and_parameters_say_the_same_things_and_parameters_count() -> None:
    request = said({"n": 2, "stop": "x", "top_k": -1, "ignore_eos": True, "logit_bias": {"3": 1}, "seed": None})
    request.parameters["temperature"].double_param = 0.5
    request.parameters["n"].int64_param = 3
    request.parameters["priority"].int64_param = 7
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    read_ = read_triton(request)
    assert read_.completions == 3
    assert read_.sampling == Sampling(
        max_tokens=TOKENS_MAX, seed=SEED, stop=("x",), ignore_end=True, logit_bias={3: 1.0}, temperature=0.5
    )


def test_a_schema_may_be_json_itself() -> None:
    assert read_triton(said({"json_schema": {"type": "object"}})).sampling.json_schema == '{"type": "object"}'


@pytest.mark.parametrize(
    ("request_", "entry", "field"),
    [
        (triton(b"\xff\xfe"), catalogue.FIELD_INVALID, "text_input"),
        (triton(b""), catalogue.FIELD_REQUIRED, "text_input"),
        (said(b"{"), catalogue.FIELD_INVALID, "sampling_parameters"),
        (said(b"\xff"), catalogue.FIELD_INVALID, "sampling_parameters"),
        (said(b"[" * 100_000), catalogue.FIELD_INVALID, "sampling_parameters"),
        (said(b"1" * 10_000), catalogue.FIELD_INVALID, "sampling_parameters"),
        (said([1]), catalogue.FIELD_INVALID, "sampling_parameters"),
        (said(b" " * (1 << 19)), catalogue.FIELD_TOO_LONG, "sampling_parameters"),
        (said({"warmth": 1}), catalogue.PARAMETER_INVALID, "sampling_parameters.warmth"),
        (said({"temperature": "hot"}), catalogue.FIELD_INVALID, "sampling_parameters.temperature"),
        (said({"temperature": True}), catalogue.FIELD_INVALID, "sampling_parameters.temperature"),
        (said({"max_tokens": 1.5}), catalogue.FIELD_INVALID, "sampling_parameters.max_tokens"),
        (said({"max_tokens": 10**400}), catalogue.FIELD_INVALID, "sampling_parameters.max_tokens"),
        (said({"n": 5}), catalogue.FIELD_INVALID, "sampling_parameters.n"),
        (said({"n": 0}), catalogue.FIELD_INVALID, "sampling_parameters.n"),
        (said({"stop": 5}), catalogue.FIELD_INVALID, "sampling_parameters.stop"),
        (said({"stop": [5]}), catalogue.FIELD_INVALID, "sampling_parameters.stop[0]"),
        (said(b'{"stop": ["\\ud800"]}'), catalogue.FIELD_INVALID, "sampling_parameters.stop[0]"),
        (said({"stop": ["x" * (200 << 10)]}), catalogue.FIELD_TOO_LONG, "sampling_parameters.stop[0]"),
        (said({"logit_bias": [1]}), catalogue.FIELD_INVALID, "sampling_parameters.logit_bias"),
        (said({"ignore_end": 1}), catalogue.FIELD_INVALID, "sampling_parameters.ignore_end"),
        (said({"json_schema": "{}", "grammar": "x"}), catalogue.FIELD_INVALID, "sampling_parameters.grammar"),
        (with_parameter("warmth", int64_param=1), catalogue.PARAMETER_INVALID, "parameters.warmth"),
        (with_parameter("top_k", int64_param=100_001), catalogue.FIELD_INVALID, "parameters.top_k"),
        (with_parameter("max_tokens", string_param="many"), catalogue.FIELD_INVALID, "parameters.max_tokens"),
    ],
    ids=lambda value: "",
)
def test_tritons_requests_that_can_not_be_right_are_refused(
    request_: oip.ModelInferRequest, entry: CatalogueEntry, field: str
) -> None:
    error = refusal(lambda: read_triton(request_))
    assert (error.entry, error.field) == (entry, field)


def test_a_key_of_a_bias_that_is_no_token_is_refused() -> None:
    for key in ("x", "-1", "4294967296", "1" * 5_000):
        error = refusal(lambda key=key: read_triton(said({"logit_bias": {key: 1}})))
        assert error.entry is catalogue.FIELD_INVALID
