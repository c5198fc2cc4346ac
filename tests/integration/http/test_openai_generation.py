"""OpenAI's own client talks to the front; a test says what the mesh behind it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from openai import APIError, AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError, RateLimitError

from headrace_common import catalogue
from headrace_common.errors import AuthError, ModelError, QuotaExceeded, ValidationError
from support.eventually import eventually
from support.generation_gateway import WORDS, GenerationGateway, Step, delta, generating, sentence
from support.http_front import HttpFront, http_front

TEXT = "".join(WORDS)
HI: list[Any] = [{"role": "user", "content": "Hi"}]


class Served:
    """A front with a scripted mesh behind it."""

    def __init__(self, gateway: GenerationGateway, http: HttpFront) -> None:
        self.gateway = gateway
        self.http = http
        self.openai = AsyncOpenAI(base_url=f"{http.url}/openai/v1", api_key="key", max_retries=0)


@asynccontextmanager
async def serving(script: Any = sentence, **settings: Any) -> AsyncGenerator[Served]:
    async with generating(script) as (gateway, address), http_front(address, **settings) as http:
        served = Served(gateway, http)
        async with served.openai:
            yield served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def test_a_chat_comes_whole_or_in_chunks(served: Served) -> None:
    chats = served.openai.chat.completions
    whole = await chats.create(model="m:2", messages=HI, n=2, temperature=0, extra_headers={"x-request-id": "mine"})
    assert whole.id == "chatcmpl-mine" and (whole.model, whole.system_fingerprint) == ("m:2", "m:1")
    assert [(c.index, c.message.content, c.finish_reason) for c in whole.choices] == [
        (0, TEXT, "stop"),
        (1, TEXT, "stop"),
    ]
    assert whole.usage is not None and whole.usage.prompt_tokens_details is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (3, 8, 11)
    stream = await chats.create(
        model="m", messages=HI, stream=True, max_tokens=4, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]] == ["", *WORDS, ""]
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 7
    first, second = served.gateway.requests
    assert (first.model_version, first.completions, second.sampling.max_tokens) == ("2", 2, 4)
    seen = served.gateway.calls[0].metadata
    assert (seen["x-request-id"], seen["authorization"]) == ("mine", "Bearer key")


async def test_completions_of_several_prompts_come_in_one_answer(served: Served) -> None:
    completions = served.openai.completions
    prompts = [f"p{number}" for number in range(11)]
    whole = await completions.create(model="m", prompt=prompts, echo=True)
    assert [(c.index, c.text) for c in whole.choices] == [(n, f"p{n}{TEXT}") for n in range(11)]
    assert whole.usage is not None and whole.usage.prompt_tokens == 33
    texts = dict.fromkeys(range(11), "")
    async for chunk in await completions.create(model="m", prompt=prompts, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert set(texts.values()) == {TEXT}
    assert {request.sampling.max_tokens for request in served.gateway.requests} == {16}


async def test_the_last_event_says_that_it_was_the_last(served: Served) -> None:
    body = {"model": "m", "messages": HI, "stream": True}
    async with httpx.AsyncClient(base_url=served.http.url, timeout=60) as client:
        for path in ("/openai/v1/chat/completions", "/v1/chat/completions"):
            answer = await client.post(path, json=body, headers={"x-api-key": "key", "accept-encoding": "gzip"})
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["x-request-id"] in answer.text
            assert answer.text.endswith("data: [DONE]\n\n") and answer.text.count("\n\n") == len(WORDS) + 3


@pytest.mark.parametrize(
    ("failure", "kind", "code", "param"),
    [
        (ModelError("no such model", entry=catalogue.MODEL_NOT_FOUND), NotFoundError, "model_not_found", None),
        (
            ValidationError("sampling.top_p is 0.0", field="sampling.top_p"),
            BadRequestError,
            "field_invalid",
            "top_p",
        ),
        (AuthError("no", entry=catalogue.CREDENTIAL_UNKNOWN), AuthenticationError, "invalid_api_key", None),
        (QuotaExceeded("enough", entry=catalogue.QUOTA_EXCEEDED), RateLimitError, "insufficient_quota", None),
    ],
)
async def test_the_mesh_s_refusals_are_openai_s_errors(failure: Any, kind: Any, code: str, param: str | None) -> None:
    async with serving(lambda _: [failure]) as served:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                await served.openai.chat.completions.create(model="m", messages=HI, stream=stream)
            assert (caught.value.code, caught.value.param) == (code, param)
            assert "sampling." not in caught.value.message
            assert ("retry-after" in caught.value.response.headers) == (kind is RateLimitError)


async def test_bad_requests_never_reach_the_mesh(served: Served) -> None:
    with pytest.raises(BadRequestError) as caught:
        await served.openai.chat.completions.create(model="m", messages=HI, extra_body={"temprature": 1})
    assert (caught.value.param, caught.value.type) == ("temprature", "invalid_request_error")
    with pytest.raises(BadRequestError, match="names no model"):
        await served.openai.completions.create(model="m:1:2", prompt="a")
    async with httpx.AsyncClient(base_url=served.http.url, timeout=60) as client:
        url = "/v1/completions"
        deep = b'{"model": "m", "prompt": ' + b"[" * 100_000
        for content, status in ((b"\xff", 400), (b"{", 400), (deep, 400), (b" " * (9 << 20), 413)):
            answer = await client.post(url, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == status and set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert not served.gateway.requests


async def test_a_failure_after_the_first_word_is_the_streams_last_event() -> None:
    def script(_: Any) -> list[Step]:
        return [delta("The"), ModelError("it broke", entry=catalogue.MODEL_EXECUTION_FAILED)]

    async with serving(script) as served:
        said: list[str | None] = []
        with pytest.raises(APIError, match="it broke"):
            async for chunk in await served.openai.chat.completions.create(model="m", messages=HI, stream=True):
                said.append(chunk.choices[0].delta.content)  # noqa: PERF401 - what came before the failure
        assert said == ["", "The"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_the_call(*, stream: bool) -> None:
    async with serving(lambda _: [delta("The"), None]) as served:
        async with httpx.AsyncClient(base_url=served.http.url, timeout=60) as client:
            body = {"model": "m", "prompt": ["a", "b"], "stream": stream}
            waiting = asyncio.create_task(client.post("/v1/completions", json=body))
            await eventually(lambda: len(served.gateway.requests) == 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await eventually(lambda: served.gateway.cancelled == 2)
        await eventually(lambda: served.http.front.streams.open == 0)


async def test_streams_have_a_bound_and_end_with_the_server() -> None:
    async with serving(lambda _: [delta("The"), None], streams_max=1) as served:
        chats = served.openai.chat.completions
        stream = await chats.create(model="m", messages=HI, stream=True)
        with pytest.raises(RateLimitError, match="as many event streams"):
            await chats.create(model="m", messages=HI, stream=True)
        served.http.front.streams.ending.set()
        with pytest.raises(APIError, match="shutting down"):
            async for _ in stream:
                pass
        await eventually(lambda: served.gateway.cancelled == 1)


async def test_a_client_that_does_not_read_is_cut_off_and_its_call_cancelled() -> None:
    words = [delta("x" * 50_000)] * 2_000
    async with serving(lambda _: [*words, None], write_timeout_s=0.5) as served:
        address = httpx.URL(served.http.url)
        body = b'{"model": "m", "prompt": "a", "stream": true}'
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\ncontent-type: application/json\r\n"
        _, writer = await asyncio.open_connection(address.host, address.port, limit=1_024)
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        await eventually(lambda: served.gateway.cancelled == 1 and served.http.front.streams.open == 0)
        writer.close()
