"""Has a model's chat template write conversations out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError
from headrace_runner.backends.generation import Chat
from headrace_runner.backends.llamacpp.client import ModelClient, Refused

# A template is the artefact's, and may never end. It is given up after so many rounds in which the process did work of
# the same size for somebody else: on a slow machine neither gets on.
_ROUNDS_MAX = 10
_ROUND_S = 1.0
# What never ends computes until the process is ended, whether its caller is there or not.
_AT_ONCE_MAX = 2


class TemplateWriter:
    """Writes conversations out, a few at the same time. One event loop.

    Args:
        round_s: How long a round is.
    """

    def __init__(self, *, client: ModelClient, round_s: float = _ROUND_S) -> None:
        self._client = client
        self._round_s = round_s
        self._places = asyncio.Semaphore(_AT_ONCE_MAX)
        self._writing: set[asyncio.Task[str]] = set()

    async def written(self, chat: Chat) -> str:
        """The text of a conversation. It is written to its end also where the caller leaves.

        Raises:
            ModelError: CHAT_TEMPLATE_FAILED (INVALID_ARGUMENT): the template refuses it, or has no end.
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        writing = asyncio.ensure_future(self._write(chat))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        writing.add_done_callback(_heard)
        return await asyncio.shield(writing)

    async def _write(self, chat: Chat) -> str:
        body: Mapping[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in chat.messages],
            "add_generation_prompt": chat.add_generation_prompt,
        }
        async with self._places:
            asked = asyncio.ensure_future(self._client.ask("POST", "/apply-template", body))
            asked.add_done_callback(_heard)
            rounds = 0
            while not (await asyncio.wait({asked}, timeout=self._round_s))[0]:
                rounds += await self._gets_on(chat)
                if rounds >= _ROUNDS_MAX and not asked.done():
                    self._client.renew()
                    raise template_failed("the template does not end")
        try:
            return asked.result()["prompt"]
        except Refused:
            raise template_failed("the template refuses it, for example because of the order of the roles") from None

    async def _gets_on(self, chat: Chat) -> bool:
        """Whether the process takes the same conversation apart within a round."""
        body = {"content": "\n".join(message.content for message in chat.messages)}
        try:
            await self._client.ask("POST", "/tokenize", body, timeout_s=self._round_s)
        except (HeadraceError, Refused):
            return False
        return True


def template_failed(why: str) -> ModelError:
    """INVALID_ARGUMENT: the conversation can't be made a prompt."""
    return ModelError(
        f"the conversation can't be written out: {why}", entry=catalogue.CHAT_TEMPLATE_FAILED, field="chat"
    )


def _heard(task: asyncio.Task[Any]) -> None:
    """Its failure is known to whoever waited for it, if anybody still did."""
    if not task.cancelled():
        task.exception()
