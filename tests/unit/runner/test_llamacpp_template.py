"""Chat templates that take long: a slow machine is waited for, a template without end is ended with its process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

pytest.importorskip("aiohttp")

from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_runner.backends.generation import Chat, ChatMessage
from headrace_runner.backends.llamacpp.client import ModelClient, Refused
from headrace_runner.backends.llamacpp.lost import process_lost, took_too_long
from headrace_runner.backends.llamacpp.template import TemplateWriter

CHAT = Chat(messages=[ChatMessage("user", "hello")])
ROUND_S = 0.005


@dataclass
class Process:
    """Answers as a model's process does, as far as templates go.

    Attributes:
        gets_on: Whether it takes text apart in time.
        written: Set once the template has been written out.
    """

    gets_on: Callable[[], bool] = lambda: True
    written: asyncio.Event = field(default_factory=asyncio.Event)
    refuses: bool = False
    renewed: int = 0
    rounds: int = 0
    at_once: int = 0

    def renew(self) -> None:
        self.renewed += 1
        self.written.set()

    async def ask(self, method: str, path: str, body: Any, *, timeout_s: float = 600.0) -> Any:
        if path == "/tokenize":
            self.rounds += 1
            if not self.gets_on():
                raise took_too_long(timeout_s)
            return {"tokens": [1]}
        self.at_once += 1
        await self.written.wait()
        if self.renewed:
            raise process_lost()
        if self.refuses:
            raise Refused(500, {"type": "server_error", "message": "secret"})
        return {"prompt": "<user>hello"}


def writer(process: Process) -> TemplateWriter:
    return TemplateWriter(client=cast("ModelClient", process), round_s=ROUND_S)


async def test_a_slow_machine_is_waited_for_and_its_process_is_not_ended() -> None:
    process = Process(gets_on=lambda: False)
    writing = asyncio.ensure_future(writer(process).written(CHAT))
    while process.rounds < 30:
        await asyncio.sleep(ROUND_S)
    assert not writing.done()
    process.written.set()
    assert await writing == "<user>hello"
    assert not process.renewed


async def test_a_template_without_end_is_ended_with_its_process_also_where_nobody_waits_any_more() -> None:
    process = Process()
    writes = writer(process)
    with pytest.raises(HeadraceError, match="does not end") as caught:
        await writes.written(CHAT)
    assert (caught.value.entry, process.renewed, process.rounds) == (catalogue.CHAT_TEMPLATE_FAILED, 1, 10)
    process.renewed = 0
    process.written.clear()
    leaving = asyncio.ensure_future(writes.written(CHAT))
    await asyncio.sleep(2 * ROUND_S)
    leaving.cancel()
    await asyncio.wait_for(process.written.wait(), 10)
    assert process.renewed == 1


async def test_a_template_s_own_words_are_not_passed_on() -> None:
    process = Process(refuses=True)
    process.written.set()
    with pytest.raises(HeadraceError) as caught:
        await writer(process).written(CHAT)
    assert caught.value.entry is catalogue.CHAT_TEMPLATE_FAILED and "secret" not in str(caught.value)


async def test_two_templates_at_most_are_written_at_the_same_time() -> None:
    process = Process(gets_on=lambda: False)
    writes = writer(process)
    writing = [asyncio.ensure_future(writes.written(CHAT)) for _ in range(5)]
    while process.rounds < 6:
        await asyncio.sleep(ROUND_S)
    assert process.at_once == 2
    process.written.set()
    assert await asyncio.gather(*writing) == ["<user>hello"] * 5
