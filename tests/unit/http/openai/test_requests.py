"""OpenAI's requests become the mesh's, or are refused by the name of the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from headrace_client.errors import ValidationError
from headrace_client.model_reference import parse
from headrace_client.private_pool import POOL
from headrace_gateway.http.json_models import parsed, request_body
from headrace_gateway.http.openai.chat_request import ChatRequest
from headrace_gateway.http.openai.completion_request import CompletionRequest
from headrace_gateway.http.openai.embeddings import EmbeddingRequest, infer_requests

HI = [{"role": "user", "content": "Hi"}]
EVERYTHING: dict[str, Any] = {
    "model": "m:3",
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.25,
    "presence_penalty": -0.5,
    "frequency_penalty": 2,
    "n": 2,
    "stop": "END",
    "seed": 11,
    "logit_bias": {"5": -100},
    "top_k": -1,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "ignore_eos": True,
    "priority": 9,
    "prompt_cache_key": "s",
    "user": "u",
    "store": False,
    "metadata": {"a": "b"},
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "best_of": 1,
}
SAMPLING = {
    "maxTokens": 7,
    "temperature": 0.5,
    "topP": 0.25,
    "topK": 0,
    "minP": 0.125,
    "repetitionPenalty": 1.5,
    "presencePenalty": -0.5,
    "frequencyPenalty": 2.0,
    "stop": ["END"],
    "seed": 11,
    "logitBias": {"5": -100.0},
    "ignoreEnd": True,
}
CALL = {"modelName": "m", "modelVersion": "3", "id": "r", "completions": 2, "priority": 9, "session": "s"}


def document(message: Any) -> dict[str, Any]:
    return MessageToDict(message, descriptor_pool=POOL)


def chat(**fields: Any) -> dict[str, Any]:
    request = parsed(ChatRequest, json.dumps({"model": "m", "messages": HI, **fields}).encode())
    return document(request.to_generate(parse(request.model), request_id="r"))


def completions(**fields: Any) -> list[dict[str, Any]]:
    request = parsed(CompletionRequest, json.dumps({"model": "m", "prompt": "Once", **fields}).encode())
    return [document(message) for message in request.to_generate(parse(request.model), request_id="r")]


def test_every_parameter_reaches_the_mesh() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {"role": "assistant", "content": "c", "tool_calls": None},
        {"role": "tool", "content": "d", "tool_call_id": "1"},
    ]
    more = {"max_completion_tokens": 9, "logprobs": True, "top_logprobs": 4, "tools": [], "tool_choice": "auto"}
    assert chat(**EVERYTHING, **more, messages=messages, response_format={"type": "json_object"}) == {
        **CALL,
        "topLogprobs": 4,
        "chat": {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "a\nb"},
                {"role": "assistant", "content": "c"},
                {"role": "tool", "content": "d"},
            ]
        },
        "sampling": {**SAMPLING, "maxTokens": 9, "jsonSchema": '{"type": "object"}'},
    }
    assert completions(**EVERYTHING, prompt=["a", "b"], logprobs=3) == [
        {**CALL, "topLogprobs": 3, "text": text, "sampling": SAMPLING} for text in "ab"
    ]


def test_what_is_absent_or_null_is_the_meshs_to_say() -> None:
    nothing = dict.fromkeys((*EVERYTHING, "logprobs", "tools"))
    asked = {"modelName": "m", "id": "r", "chat": {"messages": HI}}
    assert chat() == chat(**{**nothing, "model": "m"}) == asked
    # OpenAI's own default for completions.
    assert completions() == [{"modelName": "m", "id": "r", "text": "Once", "sampling": {"maxTokens": 16}}]


def test_formats_and_log_probabilities_of_chats() -> None:
    schema = {"type": "object", "properties": {"ä": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert json.loads(chat(response_format=form)["sampling"]["jsonSchema"]) == schema
    assert "jsonSchema" not in chat(response_format={"type": "text"}).get("sampling", {})
    assert chat(logprobs=True)["topLogprobs"] == 0
    assert "topLogprobs" not in chat(logprobs=False)


@pytest.mark.parametrize(("seed", "expected"), [(-1, (1 << 32) - 2), (1 << 40, 256), ((1 << 32) - 2, (1 << 32) - 2)])
def test_seeds_of_64_bits_have_one_of_the_mesh_each(seed: int, expected: int) -> None:
    assert chat(seed=seed)["sampling"]["seed"] == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([1, 2], [{"tokenIds": {"ids": [1, 2]}}]),
        ([[1], [2, 3]], [{"tokenIds": {"ids": [1]}}, {"tokenIds": {"ids": [2, 3]}}]),
        (["a", [2]], [{"text": "a"}, {"tokenIds": {"ids": [2]}}]),
    ],
)
def test_prompts_have_four_forms(prompt: Any, expected: list[dict[str, Any]]) -> None:
    assert [
        {key: value for key, value in asked.items() if key in {"text", "tokenIds"}}
        for asked in completions(prompt=prompt)
    ] == expected


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"temprature": 1}, "temprature", "there is no field"),
        ({"temperature": "1"}, "temperature", "number"),
        ({"temperature": float("nan")}, "temperature", "finite"),
        ({"max_tokens": 5.5}, "max_tokens", "integer"),
        ({"max_tokens": -1}, "sampling.max_tokens", "range"),
        ({"n": 0}, "n", "greater"),
        ({"n": True}, "n", "integer"),
        ({"seed": 1 << 63}, "seed", "less"),
        ({"stop": [1]}, "stop[0]", "string"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "no token"),
        ({"logit_bias": {"99999999999": 1}}, "logit_bias", "no token"),
        ({"logit_bias": {"4294967296": 1}}, "sampling.logit_bias", "range"),
        ({"stream_options": {}}, "stream_options", "where stream is true"),
        ({"top_logprobs": 3}, "top_logprobs", "where logprobs is true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less"),
        ({"tools": [{"type": "function"}]}, "tools", "not served"),
        ({"best_of": 2}, "best_of", "not served"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "not served"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "where its type is"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing",
        ),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "Hi"}, "messages", "array"),
        ({"messages": [{"role": "owner", "content": ""}]}, "messages[0].role", "'system'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0]", "needs a content"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls", "0 items"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
            "read text only",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "has no text"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "must be a text"),
    ],
)
def test_bad_chats_are_refused_by_field(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        chat(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"echo": True, "prompt": [1]}, "echo"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"suffix": "b"}, "suffix"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_bad_completions_are_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        completions(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"model": "\\ud800", "messages": []}', b"{} {}"], ids=repr
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        parsed(ChatRequest, body)
    assert caught.value.reason == "REQUEST_MALFORMED"


def test_texts_to_embed_go_in_groups() -> None:
    request = parsed(EmbeddingRequest, json.dumps({"model": "e", "input": ["é"] * 17}).encode())
    first, second = infer_requests(parse("e@staging"), request.input, request_id="r")
    assert document(first)["request"] | {"rawInputContents": None} == {
        "modelName": "e",
        "modelVersion": "staging",
        "id": "r",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": ["16"]}],
        "rawInputContents": None,
    }
    assert bytes(second.request.raw_input_contents[0]) == b"\x02\0\0\0\xc3\xa9"


def test_schemas_stand_alone() -> None:
    for model in (ChatRequest, CompletionRequest, EmbeddingRequest):
        assert "$ref" not in json.dumps(request_body(model))
