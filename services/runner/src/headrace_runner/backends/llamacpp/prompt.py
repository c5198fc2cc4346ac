"""Makes tokens of prompts. What users write never becomes a control token."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace_common import catalogue
from headrace_common.errors import ModelError, ValidationError
from headrace_runner.backends.generation import ROLES, Chat, ChatMessage, Prompt
from headrace_runner.backends.llamacpp.client import ModelClient, Refused

# A template is the artefact's, and may never end.
_TEMPLATE_MAX_S = 10.0
_REASON_CHARACTERS_MAX = 300


class Tokenizer:
    """Takes prompts apart with the model's own vocabulary and chat template.

    Args:
        client: Asks the model's process.
        vocabulary_size: Tokens are below it.
        has_template: Whether there is a chat template; llama.cpp would use another model's otherwise.
    """

    def __init__(self, *, client: ModelClient, vocabulary_size: int, has_template: bool) -> None:
        self._client = client
        self._vocabulary_size = vocabulary_size
        self._has_template = has_template

    async def tokens_of(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, at least one.

        Raises:
            ModelError: CHAT_TEMPLATE_FAILED (INVALID_ARGUMENT).
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT): an unknown role, a token that is not in the vocabulary,
                or no token at all.
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        if isinstance(prompt, str):
            field, tokens = "text", await self.text(prompt, begins=True)
        elif isinstance(prompt, Chat):
            field, tokens = "chat.messages", await self._chat(prompt)
        else:
            field, tokens = "token_ids", self._checked(prompt)
        if not tokens:
            raise _field_invalid(field, f"{field} has no token")
        return tokens

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
        if not chat.messages:
            raise _field_invalid("chat.messages", "chat.messages has no message")
        for index, message in enumerate(chat.messages):
            if message.role not in ROLES:
                field = f"chat.messages[{index}].role"
                raise _field_invalid(field, f"{field} is none of {', '.join(ROLES)}")
        if not self._has_template:
            raise _template_failed("the model has no chat template")
        if not await self._has_controls(chat.messages):
            return await self.text(await self._written(chat), begins=True, controls=True)
        return await self._piecewise(chat)

    async def _has_controls(self, messages: Sequence[ChatMessage]) -> bool:
        """Whether a user's text has what the vocabulary takes for a control token."""
        contents = "\n".join(message.content for message in messages)
        return await self.text(contents) != await self.text(contents, controls=True)

    async def _piecewise(self, chat: Chat) -> list[int]:
        """Has marks written out in place of the contents, and puts the contents' own tokens there.

        Templates that cut or rewrite a content do so to its mark, so this is only for contents with control tokens.
        """
        marks = [f"m{secrets.token_hex(12)}n{index}m" for index in range(len(chat.messages))]
        contents = dict(zip(marks, (message.content for message in chat.messages), strict=True))
        marked = [ChatMessage(message.role, mark) for message, mark in zip(chat.messages, marks, strict=True)]
        written = await self._written(
            Chat(messages=marked, add_generation_prompt=chat.add_generation_prompt),
        )
        tokens: list[int] = []
        for index, piece in enumerate(re.split(f"({'|'.join(marks)})", written)):
            if piece in contents:
                tokens += await self.text(contents[piece])
            elif piece:
                tokens += await self.text(piece, begins=index == 0, controls=True)
        return tokens

    async def _written(self, chat: Chat) -> str:
        body: Mapping[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in chat.messages],
            "add_generation_prompt": chat.add_generation_prompt,
        }
        try:
            return (await self._client.ask("POST", "/apply-template", body, timeout_s=_TEMPLATE_MAX_S))["prompt"]
        except Refused as refused:
            raise _template_failed(f"the template refuses it: {refused.message[:_REASON_CHARACTERS_MAX]}") from None
        except TimeoutError:
            # It would go on with it.
            self._client.renew()
            raise _template_failed(f"the template did not end within {_TEMPLATE_MAX_S:g} s") from None


def _field_invalid(field: str, message: str) -> ValidationError:
    return ValidationError(message, entry=catalogue.FIELD_INVALID, context={"field": field}, field=field)


def _template_failed(why: str) -> ModelError:
    return ModelError(
        f"the conversation can't be written out: {why}", entry=catalogue.CHAT_TEMPLATE_FAILED, field="chat"
    )
