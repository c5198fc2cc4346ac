"""The `openai` package, unchanged, gets from a real language model what gRPC's clients get."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

from headrace_client import Client
from support.generation import (
    EMBEDDING_MODEL,
    asking,
    chatting,
    provide_smollm2,
    provide_smollm2_embeddings,
    stub_text,
)
from support.mesh import Mesh
from support.smollm2 import CHAT, MODEL, PROMPTS

TOKENS = 12
MESSAGES: list[Any] = [{"role": role, "content": content} for role, content in CHAT]
ASKED = [PROMPTS[0], PROMPTS[10]]
"""English, and a script whose characters have several tokens each."""


@pytest.fixture(scope="module")
def talking(mesh: Mesh) -> Mesh:
    """The shared mesh with the models in memory."""
    provide_smollm2(mesh)
    provide_smollm2_embeddings(mesh)
    return mesh


@pytest.fixture(scope="module")
def openai(talking: Mesh) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{talking.http}/openai/v1", api_key=talking.api_key, max_retries=0) as client:
        yield client


def test_chats_say_what_grpc_s_clients_hear(openai: OpenAI, talking: Mesh, channel: grpc.Channel) -> None:
    expected = stub_text(talking, channel, chatting(CHAT, max_tokens=TOKENS))
    asked: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0}
    whole = openai.chat.completions.create(**asked)
    assert whole.choices[0].message.content == expected
    assert whole.usage is not None and whole.system_fingerprint == f"{MODEL}:1"
    with openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len(chunks) > TOKENS // 2, "token by token"
    told = chunks[-1].usage
    assert told is not None and told.completion_tokens == whole.usage.completion_tokens
    assert told.prompt_tokens == whole.usage.prompt_tokens


def test_completions_say_what_grpc_s_clients_hear(openai: OpenAI, talking: Mesh, channel: grpc.Channel) -> None:
    expected = [stub_text(talking, channel, asking(prompt, max_tokens=TOKENS)) for prompt in ASKED]
    asked: dict[str, Any] = {"model": f"{MODEL}:1", "prompt": ASKED, "max_tokens": TOKENS, "temperature": 0}
    whole = openai.completions.create(**asked, echo=True)
    assert [c.text for c in whole.choices] == [p + text for p, text in zip(ASKED, expected, strict=True)]
    texts = ["", ""]
    with openai.completions.create(**asked, stream=True) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    assert texts == expected


def test_options_reach_the_model(openai: OpenAI) -> None:
    prompt, asked = PROMPTS[1], {"model": MODEL, "max_tokens": 4, "temperature": 0}
    (plain,) = openai.completions.create(**asked, prompt=prompt, logprobs=2).choices
    logprobs = plain.logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.top_logprobs and logprobs.token_logprobs
    assert "".join(logprobs.tokens) == plain.text
    assert [max(top, key=lambda token: top[token]) for top in logprobs.top_logprobs] == logprobs.tokens
    stop = logprobs.tokens[2]
    (stopped,) = openai.completions.create(**asked, prompt=prompt, stop=stop).choices
    assert (stopped.text, stopped.finish_reason) == (plain.text.split(stop)[0], "stop")
    sampled = [
        [c.text for c in openai.completions.create(model=MODEL, prompt=prompt, max_tokens=6, n=2, seed=5).choices]
        for _ in range(2)
    ]
    assert sampled[0] == sampled[1] and len(sampled[0]) == 2
    schema = {
        "type": "object",
        "properties": {"planet": {"type": "string", "maxLength": 8}},
        "required": ["planet"],
        "additionalProperties": False,
    }
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_completion_tokens=24,
        temperature=0,
        logprobs=True,
        top_logprobs=1,
        response_format={"type": "json_schema", "json_schema": {"name": "planet", "schema": schema}},
    ).choices[0]
    assert set(json.loads(answer.message.content or "")) == {"planet"}
    assert answer.logprobs is not None and answer.logprobs.content
    assert b"".join(bytes(token.bytes or []) for token in answer.logprobs.content).decode() == answer.message.content


def test_embeddings_are_those_of_the_sdk(openai: OpenAI, talking: Mesh) -> None:
    texts = [f"a cat on mat {number}" for number in range(3)]
    with Client(talking.grpc, api_key=talking.api_key) as client:
        expected = client.embed(EMBEDDING_MODEL, texts)
    made = openai.embeddings.create(model=EMBEDDING_MODEL, input=texts)
    read = openai.completions.create(model=MODEL, prompt=texts, max_tokens=1).usage
    assert read is not None and 0 < made.usage.prompt_tokens == made.usage.total_tokens == read.prompt_tokens
    np.testing.assert_allclose([item.embedding for item in made.data], expected, atol=1e-6)
    packed: list[Any] = list(
        openai.embeddings.create(model=EMBEDDING_MODEL, input=texts, encoding_format="base64").data
    )
    vectors = [np.frombuffer(base64.b64decode(item.embedding), "<f4") for item in packed]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    plain = openai.embeddings.create(model=EMBEDDING_MODEL, input=texts, encoding_format="float")
    np.testing.assert_allclose([item.embedding for item in plain.data], expected, atol=1e-6)
    assert len(openai.embeddings.create(model=EMBEDDING_MODEL, input="one").data[0].embedding) == expected.shape[1]
    tokens = [[504, 3403], [504], list(range(100, 120))]
    one_by_one = [openai.embeddings.create(model=EMBEDDING_MODEL, input=row).data[0].embedding for row in tokens]
    together = openai.embeddings.create(model=EMBEDDING_MODEL, input=tokens)
    np.testing.assert_allclose([item.embedding for item in together.data], one_by_one, atol=1e-5)
    assert together.usage.prompt_tokens == 23
    for wrong in ([[1], [4_000_000_000]], [[1] * 9_000]):
        with pytest.raises(BadRequestError):
            openai.embeddings.create(model=EMBEDDING_MODEL, input=wrong)
    with pytest.raises(BadRequestError) as caught:
        openai.embeddings.create(model=EMBEDDING_MODEL, input="one", dimensions=7)
    assert caught.value.param == "dimensions"


def test_the_other_mount_has_the_same_routes(openai: OpenAI, talking: Mesh) -> None:
    said: list[tuple[str | None, str]] = []
    vectors: list[list[float]] = []
    for client in (openai, openai.with_options(base_url=f"{talking.http}/v1")):
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 2, "temperature": 0}
        (chat,) = client.chat.completions.create(**asked, messages=MESSAGES).choices
        (completion,) = client.completions.create(**asked, prompt=PROMPTS[1]).choices
        (made,) = client.embeddings.create(model=EMBEDDING_MODEL, input="a cat").data
        said.append((chat.message.content, completion.text))
        vectors.append(made.embedding)
    assert said[0] == said[1]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_models_are_those_of_the_tenant(openai: OpenAI, talking: Mesh) -> None:
    with Client(talking.grpc, api_key=talking.api_key) as client:
        served = {model.name for model in client.models.list() if model.latest_version}
    listed = {model.id: model for model in openai.models.list()}
    assert set(listed) == served >= {MODEL, EMBEDDING_MODEL}
    assert openai.models.retrieve(MODEL) == listed[MODEL]
    assert openai.models.retrieve(f"{MODEL}:1").id == f"{MODEL}:1"
    for absent in ("absent", f"{MODEL}:99"):
        with pytest.raises(NotFoundError):
            openai.models.retrieve(absent)


def test_failures_are_openai_s(openai: OpenAI, talking: Mesh) -> None:
    chat = openai.chat.completions
    with pytest.raises(NotFoundError) as absent:
        chat.create(model="absent", messages=MESSAGES, stream=True)
    assert (absent.value.code, absent.value.type) == ("model_not_found", "not_found_error")
    for name, fields in {
        "temperature": {"temperature": 9},
        "top_p": {"top_p": 0},
        "stop[0]": {"stop": ["x" * 300]},
        "n": {"n": 100},
        "logit_bias": {"logit_bias": {"4000000000": 1}},
        "response_format": {
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "ship"}}}
        },
    }.items():
        with pytest.raises(BadRequestError) as refused:
            chat.create(model=MODEL, messages=MESSAGES, max_tokens=1, **fields)  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert refused.value.param == name, refused.value
        assert "sampling." not in refused.value.message
    with pytest.raises(BadRequestError) as long:
        openai.completions.create(model=MODEL, prompt=[1] * 9_000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(BadRequestError) as mistaken:
        chat.create(model=EMBEDDING_MODEL, messages=MESSAGES)
    assert mistaken.value.code == "model_task_mismatch"
    with pytest.raises(AuthenticationError) as stranger:
        openai.with_options(api_key="hr_" + "x" * 40).chat.completions.create(model=MODEL, messages=MESSAGES)
    assert stranger.value.code == "invalid_api_key"


def test_events_of_other_protocols_say_the_same(talking: Mesh, channel: grpc.Channel) -> None:
    (prompt,) = ASKED[:1]
    expected = stub_text(talking, channel, asking(prompt, max_tokens=TOKENS))
    parameters = {"max_tokens": TOKENS, "temperature": 0}
    body = {"text_input": prompt, "parameters": parameters}
    with httpx.Client(base_url=talking.http or "", headers=dict(talking.metadata), timeout=60) as client:
        whole = client.post(f"/v2/models/{MODEL}/generate", json=body).json()
        assert (whole["text_output"], whole["completion_tokens"]) == (prompt + expected, TOKENS)
        events = _events(client, f"/v2/models/{MODEL}/generate_stream", body)
        assert "".join(event["text_output"] for event in events) == expected and len(events) > TOKENS // 2
        tensor = {"shape": [1], "dtype": "STRING", "data": [prompt]}
        infer = {"modelId": MODEL, "inputs": {"text_input": tensor}, "parameters": parameters}
        *chunks, done = _events(client, "/v1/infer/stream", infer)
        assert "".join(chunk["outputs"]["text_output"]["data"][0] for chunk in chunks) == expected
        assert done["metadata"]["parameters"]["completion_tokens"] == TOKENS
        assert (done["runnerName"], done["deviceType"]) == ("llamacpp-cpu", "cpu")
        assert done["metadata"]["replica"].startswith("runner") and done["metadata"]["computeMs"] > 0
        tensor = {"shape": [1], "dtype": "STRING", "data": ["a cat"]}
        chunk, done = _events(client, "/v1/infer/stream", {"modelId": EMBEDDING_MODEL, "inputs": {"text": tensor}})
        assert chunk["outputs"]["embedding"]["shape"][0] == 1 and done["metadata"]["model"] == EMBEDDING_MODEL
        assert (done["runnerName"], done["metadata"]["backend"]) == ("llamacpp-cpu", "llamacpp")
        made = client.post(f"/v2/models/{EMBEDDING_MODEL}/generate", json={"text": "a cat"}).json()
        assert np.allclose(made["embedding"], chunk["outputs"]["embedding"]["data"][0])


def _events(client: httpx.Client, path: str, body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", path, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.read()
        return [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]
