"""A real language model through the mesh says what it says where the library is called directly."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace_client import Client
from support.generation import (
    GREEDY,
    asking,
    buf_curl_text,
    chatting,
    decoupled,
    decoupled_text,
    provide_smollm2,
    responses,
    stub_text,
    text_of,
)
from support.llama_process import Llama, running_llama
from support.mesh import Mesh
from support.smollm2 import CHAT, MODEL, PROMPTS, model_file

TOKENS = 12
ASKED = [PROMPTS[0], PROMPTS[10], PROMPTS[11]]
"""English, a script of other characters, and characters of several tokens each."""


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    # Threads of the library that wait for each other spin: on a busy machine several of them take minutes.
    with running_llama(model_file(), slots=2, threads=1) as llama:
        yield llama


@pytest.fixture(scope="module")
def expected(llama: Llama) -> list[str]:
    """What the library says itself."""
    return llama.complete([{"prompt": prompt, "max_tokens": TOKENS, **GREEDY} for prompt in ASKED])


@pytest.fixture(scope="module")
def talking(mesh: Mesh) -> Mesh:
    """The shared mesh with the model in memory."""
    provide_smollm2(mesh)
    return mesh


def test_a_raw_stub_gets_the_library_s_text(talking: Mesh, channel: grpc.Channel, expected: list[str]) -> None:
    for prompt, text in zip(ASKED, expected, strict=True):
        messages = list(responses(talking, channel, asking(prompt, max_tokens=TOKENS)))
        assert text_of(messages) == text
        assert (messages[0].model_name, messages[0].model_version) == (MODEL, "1")
        deltas = [delta for message in messages for delta in message.deltas]
        assert sum(len(delta.token_ids) for delta in deltas) == messages[-1].usage.completion_tokens == TOKENS
        assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [pb.FINISH_REASON_LENGTH]
        assert deltas[-1].finish_reason and len(messages) > TOKENS // 2
        assert messages[-1].execution.backend == "llamacpp"
        assert messages[-1].timings.HasField("time_to_first_token")


def test_a_conversation_is_written_out_by_the_model_s_own_template(
    talking: Mesh, channel: grpc.Channel, llama: Llama
) -> None:
    messages = [{"role": role, "content": content} for role, content in CHAT]
    (expected,) = llama.complete([{"messages": messages, "max_tokens": TOKENS, **GREEDY}])
    assert stub_text(talking, channel, chatting(CHAT, max_tokens=TOKENS)) == expected


def test_the_sdk_gets_the_library_s_text(talking: Mesh, expected: list[str]) -> None:
    with Client(talking.grpc, api_key=talking.api_key) as client:
        for prompt, text in zip(ASKED, expected, strict=True):
            deltas = list(client.generate(MODEL, prompt, max_tokens=TOKENS, **GREEDY))
            assert "".join(delta.text for delta in deltas) == text
            assert len(deltas) > TOKENS // 2


def test_buf_curl_gets_the_library_s_text(talking: Mesh, expected: list[str]) -> None:
    assert [buf_curl_text(talking, prompt, max_tokens=TOKENS) for prompt in ASKED] == expected


def test_a_decoupled_stream_gets_the_library_s_text(talking: Mesh, channel: grpc.Channel, expected: list[str]) -> None:
    for prompt, text in zip(ASKED, expected, strict=True):
        for stream in (True, False):
            request = decoupled(prompt.encode(), stream=stream, max_tokens=TOKENS)
            assert decoupled_text(talking, channel, request) == text
