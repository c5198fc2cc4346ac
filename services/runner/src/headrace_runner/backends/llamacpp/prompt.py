"""Makes tokens of prompts. What users write never becomes a control token."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

from headrace_common import catalogue
from headrace_common.errors import ModelError, ValidationError
from headrace_runner.backends.generation import Chat, ChatMessage, Prompt
from headrace_runner.backends.llamacpp.client import ModelClient
from headrace_runner.backends.llamacpp.template import TemplateWriter, template_failed

# Of UTF-8, on an average of all tokens of a text: what people write has 3 to 6 of them, some scripts 10.
_TOKEN_BYTES_MAX = 32
# A text with so many times the tokens of the context is far too long. Templates leave parts of conversations out, for
# example earlier thoughts, so that a little too long is not yet too long.
_FAR = 4
# Of a text that may be far too long as much is taken apart at once: a token has one byte at least, so that llama.cpp
# and the answer have no more tokens to hold. Texts that have more are taken apart one at a time.
_PART_BYTES = 64 << 10


class Tokenizer:
    """Takes prompts apart with the model's own vocabulary and chat template.

    Args:
        client: Asks the model's process.
        context_length: Tokens of one sequence.
        vocabulary_size: Tokens are below it.
        has_template: Whether there is a chat template; llama.cpp would use another model's otherwise.
    """

    def __init__(
        self, *, client: ModelClient, context_length: int, vocabulary_size: int, has_template: bool = False
    ) -> None:
        self._client = client
        self._context_length = context_length
        self._vocabulary_size = vocabulary_size
        self._template = TemplateWriter(client=client) if has_template else None
        self._long = asyncio.Semaphore(1)

    async def tokens_of(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, at least one. In one event loop.

        Raises:
            ModelError: CHAT_TEMPLATE_FAILED (INVALID_ARGUMENT); CONTEXT_LENGTH_EXCEEDED (INVALID_ARGUMENT): a text that
                is far too long is not taken apart.
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT): a token that is not in the vocabulary, or none at all.
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        if isinstance(prompt, str):
            async with self._place_for(prompt):
                await self.require_short("the prompt", prompt)
                field, tokens = "text", await self.text(prompt, begins=True)
        elif isinstance(prompt, Chat):
            contents = "\n".join(message.content for message in prompt.messages)
            async with self._place_for(contents):
                field, tokens = "chat.messages", await self._chat(prompt, contents)
        else:
            field, tokens = "token_ids", self._checked(prompt)
        if not tokens:
            raise _field_invalid(field, f"{field} has no token")
        return tokens

    async def require_short(self, what: str, text: str) -> None:
        """Refuses a text that is far too long for the context, of which no more is taken apart than tells so.

        Raises:
            ModelError: CONTEXT_LENGTH_EXCEEDED (INVALID_ARGUMENT).
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        data = _utf8(text)
        if len(data) > self._context_length * _TOKEN_BYTES_MAX:
            raise self._too_long(f"{what} has {len(data)} bytes")
        far = self._context_length * _FAR
        tokens = 0
        # Shorter ones can't be far too long: a token has one byte at least.
        for start in range(0, len(data) if len(data) > far else 0, _PART_BYTES):
            # A character that is cut is left out: these tokens are only counted.
            part = data[start : start + _PART_BYTES].decode(errors="ignore")
            tokens += len(await self.text(part))
            if tokens > far:
                raise self._too_long(f"{what} has more than {far} tokens")

    async def text(self, text: str, *, begins: bool = False, controls: bool = False) -> list[int]:
        """The tokens of a text.

        With `begins`, the model's own beginning and end are added; with `controls`, what looks like a control token
        becomes one.
        """
        body = {"content": text, "add_special": begins, "parse_special": controls}
        return (await self._client.ask("POST", "/tokenize", body))["tokens"]

    def check_bias(self, tokens: Iterable[int]) -> None:
        """Refuses tokens that are not in the vocabulary, which llama.cpp ignores.

        Raises:
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT).
        """
        for token in tokens:
            if not 0 <= token < self._vocabulary_size:
                raise _field_invalid(
                    "sampling.logit_bias",
                    f"sampling.logit_bias names the token {token}, the model's tokens are 0 to"
                    f" {self._vocabulary_size - 1}",
                )

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        for index, token in enumerate(tokens):
            if not 0 <= token < self._vocabulary_size:
                raise _field_invalid(
                    f"token_ids.ids[{index}]",
                    f"token_ids.ids[{index}] is {token}, the model's tokens are 0 to {self._vocabulary_size - 1}",
                )
        return list(tokens)

    async def _chat(self, chat: Chat, contents: str) -> list[int]:
        if self._template is None:
            raise template_failed("the model has no chat template")
        await self.require_short("the conversation", contents)
        # Whether a user's text has what the vocabulary takes for a control token.
        if await self.text(contents) != await self.text(contents, controls=True):
            return await self._piecewise(self._template, chat)
        written = await self._template.written(chat)
        await self.require_short("the conversation", written)
        return await self.text(written, begins=True, controls=True)

    async def _piecewise(self, template: TemplateWriter, chat: Chat) -> list[int]:
        """Has marks written out in place of the contents, and puts the contents' own tokens there.

        Templates that cut or rewrite a content do so to its mark, so this is only for contents with control tokens.
        """
        secret = f"m{secrets.token_hex(12)}n"
        marks = [f"{secret}{index}m" for index in range(len(chat.messages))]
        contents = dict(zip(marks, (message.content for message in chat.messages), strict=True))
        marked = [ChatMessage(message.role, mark) for message, mark in zip(chat.messages, marks, strict=True)]
        written = await template.written(Chat(messages=marked, add_generation_prompt=chat.add_generation_prompt))
        known: dict[tuple[str, bool, bool], list[int]] = {}
        tokens: list[int] = []
        for index, piece in enumerate(re.split(rf"({secret}\d+m)", written)):
            # Most of what a template writes is the same for each message.
            text, begins, controls = contents.get(piece, piece), index == 0, piece not in contents
            if text and (text, begins, controls) not in known:
                known[text, begins, controls] = await self.text(text, begins=begins, controls=controls)
            tokens += known.get((text, begins, controls), ())
            if len(tokens) > self._context_length:
                raise self._too_long(f"the conversation has {len(tokens)} tokens or more")
        return tokens

    def _place_for(self, text: str) -> asyncio.Semaphore | nullcontext[None]:
        return self._long if len(_utf8(text)) > _PART_BYTES else nullcontext()

    def _too_long(self, what: str) -> ModelError:
        return ModelError(
            f"{what}, the model's context has room for {self._context_length} tokens",
            entry=catalogue.CONTEXT_LENGTH_EXCEEDED,
            context={"limit": self._context_length},
        )


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _field_invalid(field: str, message: str) -> ValidationError:
    return ValidationError(message, entry=catalogue.FIELD_INVALID, context={"field": field}, field=field)
