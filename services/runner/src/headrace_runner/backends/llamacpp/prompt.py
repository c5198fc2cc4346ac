"""Makes tokens of prompts. What users write never becomes a control token."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable, Sequence

from headrace_common import catalogue
from headrace_common.errors import ModelError, ValidationError
from headrace_runner.backends.generation import Chat, ChatMessage, Prompt
from headrace_runner.backends.llamacpp.client import ModelClient
from headrace_runner.backends.llamacpp.template import TemplateWriter, template_failed

# On an average of all tokens of a text; nothing that people write has so long ones.
_TOKEN_CHARACTERS_MAX = 64


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

    async def tokens_of(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, at least one.

        Raises:
            ModelError: CHAT_TEMPLATE_FAILED (INVALID_ARGUMENT); CONTEXT_LENGTH_EXCEEDED (INVALID_ARGUMENT): a text that
                is far too long is not taken apart.
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT): a token that is not in the vocabulary, or none at all.
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        if isinstance(prompt, str):
            self.require_short("the prompt", prompt)
            field, tokens = "text", await self.text(prompt, begins=True)
        elif isinstance(prompt, Chat):
            field, tokens = "chat.messages", await self._chat(prompt)
        else:
            field, tokens = "token_ids", self._checked(prompt)
        if not tokens:
            raise _field_invalid(field, f"{field} has no token")
        return tokens

    def require_short(self, what: str, text: str) -> None:
        """Refuses a text that can't fit into the context, before it is taken apart.

        Raises:
            ModelError: CONTEXT_LENGTH_EXCEEDED (INVALID_ARGUMENT).
        """
        if len(text) > self._context_length * _TOKEN_CHARACTERS_MAX:
            raise ModelError(
                f"{what} has {len(text)} characters, far more than the {self._context_length} tokens that the model's"
                " context has room for",
                entry=catalogue.CONTEXT_LENGTH_EXCEEDED,
                context={"limit": self._context_length},
            )

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

    async def _chat(self, chat: Chat) -> list[int]:
        if self._template is None:
            raise template_failed("the model has no chat template")
        contents = "\n".join(message.content for message in chat.messages)
        self.require_short("the conversation", contents)
        plain, with_controls, written = await asyncio.gather(
            self.text(contents), self.text(contents, controls=True), self._template.written(chat)
        )
        # Whether a user's text has what the vocabulary takes for a control token.
        if plain == with_controls:
            return await self.text(written, begins=True, controls=True)
        return await self._piecewise(self._template, chat)

    async def _piecewise(self, template: TemplateWriter, chat: Chat) -> list[int]:
        """Has marks written out in place of the contents, and puts the contents' own tokens there.

        Templates that cut or rewrite a content do so to its mark, so this is only for contents with control tokens.
        """
        marks = [f"m{secrets.token_hex(12)}n{index}m" for index in range(len(chat.messages))]
        contents = dict(zip(marks, (message.content for message in chat.messages), strict=True))
        marked = [ChatMessage(message.role, mark) for message, mark in zip(chat.messages, marks, strict=True)]
        written = await template.written(Chat(messages=marked, add_generation_prompt=chat.add_generation_prompt))
        tokens: list[int] = []
        for index, piece in enumerate(re.split(f"({'|'.join(marks)})", written)):
            if piece in contents:
                tokens += await self.text(contents[piece])
            elif piece:
                tokens += await self.text(piece, begins=index == 0, controls=True)
        return tokens


def _field_invalid(field: str, message: str) -> ValidationError:
    return ValidationError(message, entry=catalogue.FIELD_INVALID, context={"field": field}, field=field)
