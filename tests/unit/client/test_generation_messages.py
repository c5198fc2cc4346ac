"""What a caller asks a language model for, as a message, and what is refused before anything is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict

from headrace_client import GenerateOptions
from headrace_client.contracts.headrace.gateway.v1 import generation_pb2
from headrace_client.errors import ValidationError
from headrace_client.generation import Transcript
from headrace_client.generation_request import encode_generate
from headrace_client.private_pool import POOL


def document(prompt: Any = "Tell", **options: Any) -> dict[str, Any]:
    return MessageToDict(encode_generate("m", prompt, options), descriptor_pool=POOL)  # pyright: ignore[reportArgumentType]


def test_every_option_reaches_the_message() -> None:
    sampling = {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 40,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "presence_penalty": -0.5,
        "frequency_penalty": 2,
        "stop": ["\n", "END"],
        "seed": 0,
        "logit_bias": {5: -100.0},
        "ignore_end": True,
        "grammar": 'root ::= "a"',
    }
    call: dict[str, Any] = {
        "completions": 2,
        "top_logprobs": 0,
        "report_progress": True,
        "priority": 0,
        "session": "s",
        "continue_elsewhere": False,
        "version": "production",
        "request_id": "r-1",
    }
    known = {*sampling, *call, "json_schema", "add_generation_prompt", "timeout_s", "traceparent"}
    assert known == set(GenerateOptions.__annotations__)
    fields = generation_pb2.SamplingParameters.DESCRIPTOR.fields_by_name
    assert {*sampling, "json_schema"} == set(fields)
    assert document(**sampling, **call) == {
        "modelName": "m",
        "modelVersion": "production",
        "id": "r-1",
        "text": "Tell",
        "completions": 2,
        "topLogprobs": 0,
        "reportProgress": True,
        "priority": 0,
        "session": "s",
        "continueElsewhere": False,
        "sampling": {
            "maxTokens": 7,
            "temperature": 0.5,
            "topP": 0.25,
            "topK": 40,
            "minP": 0.125,
            "repetitionPenalty": 1.5,
            "presencePenalty": -0.5,
            "frequencyPenalty": 2.0,
            "stop": ["\n", "END"],
            "seed": 0,
            "logitBias": {"5": -100.0},
            "ignoreEnd": True,
            "grammar": 'root ::= "a"',
        },
    }


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("", {"text": ""}),
        ([1, 2], {"tokenIds": {"ids": [1, 2]}}),
        ((1, 2), {"tokenIds": {"ids": [1, 2]}}),
        (np.array([1, 2]), {"tokenIds": {"ids": [1, 2]}}),
        ([], {"tokenIds": {}}),
        ([{"role": "user", "content": "Hi"}], {"chat": {"messages": [{"role": "user", "content": "Hi"}]}}),
        (
            [("system", "Be brief"), ["user", "Hi"]],
            {"chat": {"messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]}},
        ),
    ],
)
def test_a_prompt_is_a_text_tokens_or_a_conversation(prompt: Any, fields: dict[str, Any]) -> None:
    assert document(prompt) == {"modelName": "m", **fields}


def test_what_is_none_or_the_default_is_left_out() -> None:
    assert document(temperature=None, stop=None, version=0, json_schema=None, seed=None) == document()
    assert document(version=3)["modelVersion"] == "3"
    assert document(stop="END")["sampling"] == {"stop": ["END"]}
    assert document([("user", "Hi")], add_generation_prompt=False)["chat"]["addGenerationPrompt"] is False


def test_a_schema_may_be_a_mapping_or_a_text() -> None:
    schema = '{"type": "string", "const": "ä"}'
    assert document(json_schema=schema)["sampling"] == {"jsonSchema": schema}
    assert document(json_schema={"type": "string", "const": "ä"})["sampling"] == {"jsonSchema": schema}


def test_ranges_are_left_to_the_mesh() -> None:
    options: dict[str, Any] = {
        "temperature": 99.0,
        "top_p": float("nan"),
        "max_tokens": 0,
        "completions": 4_000_000_000,
    }
    assert document(**options)["sampling"]["topP"] == "NaN"


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ("\ud800", {}, "text"),
        (b"bytes", {}, "prompt"),
        (None, {}, "prompt"),
        ({"role": "user", "content": "Hi"}, {}, "prompt"),
        ([1, -1], {}, "token_ids.ids"),
        ([1, 1 << 32], {}, "token_ids.ids"),
        ([1.5], {}, "token_ids.ids"),
        (["a", "b"], {}, "token_ids.ids"),
        ([{"role": "user"}], {}, "chat.messages[0]"),
        ([("user", "Hi"), {"role": "user", "content": "Hi", "name": "x"}], {}, "chat.messages[1]"),
        ([("user", 5)], {}, "chat.messages[0]"),
        ([("user", "\udfff")], {}, "chat.messages[0]"),
        ("Tell", {"max_tokens": -1}, "sampling.max_tokens"),
        ("Tell", {"max_tokens": 1 << 40}, "sampling.max_tokens"),
        ("Tell", {"max_tokens": 1.5}, "sampling.max_tokens"),
        ("Tell", {"max_tokens": "9"}, "sampling.max_tokens"),
        ("Tell", {"temperature": "warm"}, "sampling.temperature"),
        ("Tell", {"temperature": 10**400}, "sampling.temperature"),
        ("Tell", {"stop": ["a", 5]}, "sampling.stop"),
        ("Tell", {"stop": 5}, "sampling.stop"),
        ("Tell", {"logit_bias": {-1: 5}}, "sampling.logit_bias"),
        ("Tell", {"logit_bias": 5}, "sampling.logit_bias"),
        ("Tell", {"grammar": 5}, "sampling.grammar"),
        ("Tell", {"grammar": "x", "json_schema": "{}"}, "sampling.grammar"),
        ("Tell", {"json_schema": {"const": float("nan")}}, "sampling.json_schema"),
        ("Tell", {"json_schema": {"const": object()}}, "sampling.json_schema"),
        ("Tell", {"priority": -1}, "priority"),
        ("Tell", {"session": 5}, "session"),
        ("Tell", {"version": -1}, "model_version"),
        ("Tell", {"version": True}, "model_version"),
        ("Tell", {"version": "\ud800"}, "model_version"),
        ("Tell", {"request_id": "a b"}, "request_id"),
        ("Tell", {"traceparent": "00"}, "traceparent"),
    ],
)
def test_what_no_message_can_hold_is_refused_with_its_field(prompt: Any, options: Any, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        document(prompt, **options)
    assert caught.value.field == field
    assert len(caught.value.message) < 300


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="'temprature'"):
        document(temprature=1)
    with pytest.raises(ValidationError):
        encode_generate("", "Tell", {})


def test_a_finish_reason_of_a_newer_mesh_is_kept_as_its_number() -> None:
    raw = generation_pb2.GenerateResponse(deltas=[generation_pb2.CompletionDelta()])
    raw.deltas[0].MergeFromString(b"\x28\x63")  # Field 5, 99.
    transcript = Transcript()
    transcript.add(raw)
    assert transcript.finish_reason == "99"
