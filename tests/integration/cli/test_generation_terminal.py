"""`headrace generate`, `chat` and `embed` as a person at a terminal has them, and in pipes that break."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence

import pytest

from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import GenerateRequest
from headrace_common import catalogue
from headrace_common.errors import ModelError
from support.eventually import eventually
from support.generation_gateway import Step, delta, generating, sentence
from support.headrace_command import Headrace
from support.mesh import HEADRACE
from support.terminal import CTRL_C, CTRL_D, Terminal, on_terminal

SENTENCE = "The cat sat."
HINT = "Ctrl-C again, Ctrl-D or /exit ends the conversation."


def moody(request: GenerateRequest) -> Sequence[Step]:
    """Answers as the last message has it: hangs at once or in the middle, fails, or has a sentence."""
    match request.chat.messages[-1].content:
        case "hang":
            return [None]
        case "begin and hang":
            return [delta("The", 10), None]
        case "fail":
            return [ModelError("too long", entry=catalogue.CONTEXT_LENGTH_EXCEEDED)]
        case _:
            return sentence(request)


def arguments(address: str, *more: str) -> tuple[str, ...]:
    return (str(HEADRACE), *more, "--endpoint", address)


async def interrupted_while_typing(terminal: Terminal, text: str) -> None:
    """An interrupt just after the prompt is seen by the library only with the next key."""
    await terminal.types(text)
    await terminal.shows(text)
    await terminal.types(CTRL_C)
    await terminal.shows(HINT)
    await terminal.shows("> ")


async def test_a_conversation_survives_interrupts_failures_and_what_is_not_text() -> None:
    async with (
        generating(moody) as (gateway, address),
        on_terminal(arguments(address, "chat", "m"), Headrace().variables()) as terminal,
    ):
        await terminal.shows("/exit ends")
        await terminal.shows("> ")
        await terminal.types("Hi\n")
        await terminal.shows(SENTENCE)
        # Nothing had been said: neither it nor the message is part of the conversation.
        await terminal.types("hang\n")
        await eventually(lambda: len(gateway.requests) == 2)
        await terminal.types(CTRL_C)
        await terminal.shows("your message is forgotten")
        await eventually(lambda: gateway.cancelled == 1)
        # What had been said is; any more interrupts are for the same answer.
        await terminal.types("begin and hang\n")
        await terminal.shows("The")
        await terminal.types(CTRL_C)
        await terminal.shows("interrupted")
        await eventually(lambda: gateway.cancelled == 2)
        await terminal.shows("> ")
        await terminal.types("fail\n")
        await terminal.shows("too long")
        await terminal.shows("> ")
        await terminal.types(b"\xff\xfe\n")
        await terminal.shows("not UTF-8")
        await terminal.shows("> ")
        await interrupted_while_typing(terminal, "half a mess")
        await terminal.types("Again\n")
        await terminal.shows(SENTENCE)
        await terminal.shows("> ")
        await interrupted_while_typing(terminal, "more")
        await terminal.types("/exit\n")
        assert await terminal.status() == 0
        assert b"Traceback" not in terminal.shown
    said = [(one.role, one.content) for one in gateway.requests[-1].chat.messages]
    assert said == [
        ("user", "Hi"),
        ("assistant", SENTENCE),
        ("user", "begin and hang"),
        ("assistant", "The"),
        ("user", "Again"),
    ]


@pytest.mark.parametrize(("keys", "status"), [(CTRL_D, 0), (CTRL_C, 130)])
async def test_a_conversation_ends_with_its_input_or_with_two_interrupts(keys: bytes, status: int) -> None:
    command = (str(HEADRACE), "chat", "m")
    async with on_terminal(command, Headrace().variables()) as terminal:
        await terminal.shows("> ")
        if keys == CTRL_C:
            await interrupted_while_typing(terminal, "a")
            await terminal.types("b")
            await terminal.shows("b")
        await terminal.types(keys)
        assert await terminal.status() == status
        assert b"Traceback" not in terminal.shown


async def test_who_gives_no_prompt_at_a_terminal_is_told_what_is_awaited() -> None:
    environment = Headrace().variables()
    async with (
        generating() as (gateway, address),
        on_terminal(arguments(address, "generate", "m"), environment) as terminal,
        on_terminal(arguments(address, "embed", "m"), environment) as embedding,
    ):
        await terminal.shows("The prompt; Ctrl-D on an empty line ends it:")
        await terminal.types("Once\nupon\n")
        await terminal.types(CTRL_D)
        await terminal.shows(SENTENCE)
        await terminal.shows("prompt of 3 tokens")
        assert await terminal.status() == 0
        assert gateway.requests[0].text == "Once\nupon"
        await embedding.shows("Texts, one a line; Ctrl-D on an empty line ends it:")
        await embedding.types(CTRL_C)
        assert await embedding.status() == 130
        assert b"Traceback" not in embedding.shown


@pytest.mark.parametrize("command", [("generate", "m", "Tell"), ("chat", "m")])
async def test_a_pipe_that_nobody_reads_any_more_ends_the_call_at_the_mesh(command: Sequence[str]) -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        return [*[delta("word " * 1000, 10)] * 100, None]

    async with generating(script) as (gateway, address):
        process = await asyncio.create_subprocess_exec(
            *arguments(address, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=Headrace().variables(),
        )
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"Hi\n")
        assert await process.stdout.read(4) == b"word"
        process.stdout._transport.close()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        async with asyncio.timeout(30):
            assert await process.stderr.read() == b""
            assert await process.wait() == 1
        await eventually(lambda: gateway.cancelled == 1)


async def test_what_is_not_text_is_refused_before_it_is_sent() -> None:
    async with generating() as (gateway, address):
        for given, asked in ((("generate", "m"), 0), (("chat", "m"), 1)):
            command = Headrace(environment={"HEADRACE_ENDPOINT": address})
            typed = b"Hi\n\xff\xfe\n" if given[0] == "chat" else b"\xff\xfe"
            done = await asyncio.to_thread(command.process, *given, stdin=typed, status=1, LANG="C", LC_ALL="C")
            assert "standard input is not UTF-8" in done.stderr
            assert len(gateway.requests) == asked
