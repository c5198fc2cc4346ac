"""Prompts that are long or sly: how much of them a model's process is asked to take apart, and when no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

pytest.importorskip("aiohttp")

from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_runner.backends.generation import Chat, ChatMessage, Prompt
from headrace_runner.backends.llamacpp.client import ModelClient
from headrace_runner.backends.llamacpp.lost import process_lost
from headrace_runner.backends.llamacpp.prompt import Tokenizer

CONTEXT = 8192
PART_BYTES = 64 << 10
CONTROL, CONTROL_TOKEN = "<|end|>", 256


@dataclass
class Process:
    """Takes texts apart into their bytes, as a model's process does with what its vocabulary doesn't know.

    Attributes:
        token_bytes: Of its longest tokens.
        asked: The texts, as they came.
        at_once_max: Most that it was asked at the same time.
        fails: It is gone when it is asked again after so many texts.
    """

    token_bytes: int = 1
    asked: list[str] = field(default_factory=list[str])
    templates: int = 0
    at_once: int = 0
    at_once_max: int = 0
    fails: int = 10**9

    async def ask(self, method: str, path: str, body: Any, *, timeout_s: float = 600.0) -> Any:
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        await asyncio.sleep(0)
        self.at_once -= 1
        if path == "/apply-template":
            self.templates += 1
            return {"prompt": "".join(f"[{one['role']}]{one['content']}{CONTROL}" for one in body["messages"])}
        if len(self.asked) >= self.fails:
            raise process_lost()
        self.asked.append(body["content"])
        parts = body["content"].split(CONTROL) if body["parse_special"] else [body["content"]]
        return {
            "tokens": [token for part in parts for token in [*part.encode()[:: self.token_bytes], CONTROL_TOKEN]][:-1]
        }


def tokenizer(process: Process) -> Tokenizer:
    return Tokenizer(
        client=cast("ModelClient", process), context_length=CONTEXT, vocabulary_size=1000, has_template=True
    )


def chat(*contents: str) -> Chat:
    return Chat(messages=[ChatMessage("user", content) for content in contents])


async def refused(process: Process, prompt: Prompt) -> None:
    with pytest.raises(HeadraceError) as caught:
        await tokenizer(process).tokens_of(prompt)
    assert caught.value.entry is catalogue.CONTEXT_LENGTH_EXCEEDED
    assert caught.value.context == {"limit": CONTEXT}


@pytest.mark.parametrize("wrap", [str, chat], ids=["text", "chat"])
async def test_of_a_text_that_is_far_too_long_little_or_nothing_is_taken_apart(wrap: Any) -> None:
    process = Process()
    # As many bytes as the longest sound text may have, and one character more.
    text = "🙂" * (CONTEXT * 32 // 4)
    await refused(process, wrap(text + "x"))
    assert process.asked == []
    await refused(process, wrap(text))
    assert [len(one.encode()) for one in process.asked] == [PART_BYTES]
    assert process.templates == 0


@pytest.mark.parametrize("wrap", [str, chat], ids=["text", "chat"])
async def test_long_texts_of_long_tokens_are_taken_apart_one_at_a_time(wrap: Any) -> None:
    process = Process(token_bytes=32)
    # Each part of it ends inside of a character.
    long, short = "x" + "🙂" * (CONTEXT * 32 // 4 - 8), "hi"
    asking = tokenizer(process)
    several = await asyncio.gather(*(asking.tokens_of(wrap(long)) for _ in range(3)))
    assert process.at_once_max == 1
    assert several[0] == several[1] == several[2] and len(several[0]) >= CONTEXT - 1
    assert "".join(process.asked).count("\ufffd") == 0
    # Short ones don't wait for long ones.
    await asyncio.gather(*(asking.tokens_of(wrap(text)) for text in (long, short, short)))
    assert process.at_once_max > 1


async def test_a_conversation_with_control_words_is_given_up_when_it_is_too_long() -> None:
    process = Process()
    short = chat(*["a" + CONTROL] * 3, "b")
    tokens = await tokenizer(process).tokens_of(short)
    inside = list(b"a" + CONTROL.encode())
    assert tokens == [*b"[user]", *inside, CONTROL_TOKEN] * 3 + [*b"[user]b", CONTROL_TOKEN]
    # What comes again is not asked again: both controls and not, then each of the pieces, one of them as the beginning.
    assert Counter(process.asked[2:]) == {"[user]": 1, "a" + CONTROL: 1, CONTROL + "[user]": 1, "b": 1, CONTROL: 1}
    process.asked.clear()
    await refused(process, chat(*(f"{CONTROL}{index:02}{'x' * 500}" for index in range(60))))
    assert len(process.asked) < 25


async def test_nothing_is_asked_any_more_once_the_process_is_gone() -> None:
    process = Process(fails=1)
    with pytest.raises(HeadraceError) as caught:
        await tokenizer(process).tokens_of(chat("hello"))
    assert caught.value.entry is catalogue.MODEL_PROCESS_LOST
    assert (process.at_once, process.templates, len(process.asked)) == (0, 0, 1)
