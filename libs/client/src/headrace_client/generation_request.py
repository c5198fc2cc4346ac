"""What a caller asks a language model for, as a message."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from headrace_client import failures
from headrace_client.contracts.headrace.gateway.v1 import generation_pb2
from headrace_client.errors import ValidationError
from headrace_client.inference import checked_request_id, checked_traceparent
from headrace_client.model_reference import named

Message: TypeAlias = Mapping[str, str] | tuple[str, str]
"""What one party of a conversation said: `{"role": …, "content": …}`, or the two as a tuple."""

Prompt: TypeAlias = str | Sequence[int] | NDArray[np.integer[Any]] | Sequence[Message]
"""Text, tokens of the model's vocabulary, or a conversation that the model's own template writes out."""

_SAMPLING_NUMBERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "ignore_end",
)
_CALL_FIELDS = ("completions", "top_logprobs", "report_progress", "priority", "session", "continue_elsewhere")
_MESSAGE_FIELDS = {"role", "content"}


class GenerateOptions(TypedDict, total=False):
    """Keyword arguments of `generate`. What is left out or None has the contract's default.

    Ranges are the mesh's to check: a value outside of one is refused with FIELD_INVALID, which names the range.

    Attributes:
        version: Number, stage or alias of the version; empty or 0 means the one that serves by default.
        max_tokens: Tokens of each completion at most, 1 or more; without it the context is the limit.
        temperature: 0 to 5; 0 always takes the most likely token. Default 1.
        top_p: Above 0, at most 1: only the most likely tokens whose probabilities sum up to this. Default 1.
        top_k: 0 to 100,000: only so many of the most likely tokens; 0, the default, means all.
        min_p: 0 to 1: only tokens at least this probable, relative to the most likely one. Default 0.
        repetition_penalty: 0.01 to 5: divides the logits of the last 64 tokens. Default 1, no penalty.
        presence_penalty: -2 to 2: taken off the logits of tokens that occurred. Default 0.
        frequency_penalty: -2 to 2: taken off a token's logits for each time that it occurred. Default 0.
        stop: Texts that end a completion and are not part of it: one, or up to 16, of 256 bytes each.
        seed: Makes sampling repeatable; without it a random one is drawn.
        logit_bias: -100 to 100 by token, added to its logits; up to 1,024 tokens.
        ignore_end: Whether the model's own end of text is never chosen. Not together with a constraint.
        json_schema: The output is JSON that fits this schema: a text, or what `json.dumps` makes one of.
        grammar: The output is text that this grammar makes, in GBNF. Not together with `json_schema`.
        completions: How many to generate; at most as many as the model has slots. Default 1.
        top_logprobs: How many of the likeliest tokens to report beside each chosen one, 0 to 20; None reports no
            log-probabilities at all.
        add_generation_prompt: Whether a conversation's template begins the assistant's next message. Default True.
        report_progress: Whether the first deltas tell how much of the prompt has been computed.
        session: Calls of one session prefer the replica that has computed their common beginning; up to 128 characters.
        priority: 0 to 9, 9 is most urgent. Default 5.
        continue_elsewhere: Whether another replica may go on where one was lost. Default True; only for one completion
            without a constraint.
        timeout_s: Time for the whole stream in seconds, retries included. Default 600, whatever the client's is.
        request_id: For the logs of the mesh.
        traceparent: W3C trace context.
    """

    version: str | int
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    logit_bias: Mapping[int, float] | None
    ignore_end: bool | None
    json_schema: str | Mapping[str, Any] | None
    grammar: str | None
    completions: int | None
    top_logprobs: int | None
    add_generation_prompt: bool | None
    report_progress: bool | None
    session: str | None
    priority: int | None
    continue_elsewhere: bool | None
    timeout_s: float | None
    request_id: str | None
    traceparent: str


def encode_generate(model: str, prompt: Prompt, options: GenerateOptions) -> generation_pb2.GenerateRequest:
    """The message for a call. Refused here is only what no message can hold.

    Raises:
        TypeError: there is no such option.
        ValidationError: a value is of another type, or too large for its field.
    """
    unknown = sorted(options.keys() - GenerateOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"generate() has no argument '{unknown[0]}'")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    request = generation_pb2.GenerateRequest()
    if not model:
        raise ValidationError("the name of a model is needed", field="model_name")
    _set("model_name", model, lambda: setattr(request, "model_name", model))
    version = _version(given.get("version", ""))
    request.model_name, request.model_version = named(model, version, field="model_name")
    request.id = checked_request_id(given.get("request_id")) or ""
    checked_traceparent(given.get("traceparent", ""))
    _set_prompt(request, prompt, given.get("add_generation_prompt"))
    for name in _CALL_FIELDS:
        if name in given:
            _set(name, given[name], lambda name=name: setattr(request, name, given[name]))
    _set_sampling(request.sampling, given)
    return request


def _set_sampling(sampling: generation_pb2.SamplingParameters, given: Mapping[str, Any]) -> None:
    for name in _SAMPLING_NUMBERS:
        if name in given:
            _set(f"sampling.{name}", given[name], lambda name=name: setattr(sampling, name, given[name]))
    if "stop" in given:
        stop = given["stop"]
        _set("sampling.stop", stop, lambda: sampling.stop.extend([stop] if isinstance(stop, str) else stop))
    if "logit_bias" in given:
        bias = given["logit_bias"]
        _set("sampling.logit_bias", bias, lambda: sampling.logit_bias.update(bias))
    if "json_schema" in given and "grammar" in given:
        raise ValidationError("json_schema and grammar can't be given together", field="sampling.grammar")
    if "json_schema" in given:
        schema = given["json_schema"]
        _set("sampling.json_schema", schema, lambda: setattr(sampling, "json_schema", _schema_text(schema)))
    if "grammar" in given:
        _set("sampling.grammar", given["grammar"], lambda: setattr(sampling, "grammar", given["grammar"]))


def _set_prompt(request: generation_pb2.GenerateRequest, prompt: object, add_generation_prompt: object) -> None:
    if isinstance(prompt, str):
        _set("text", prompt, lambda: setattr(request, "text", prompt))
        return
    parts: Any = prompt.tolist() if isinstance(prompt, np.ndarray) else prompt
    if not _is_list(parts):
        raise _refused("prompt", parts, "it is a text, a list of tokens, or a list of messages")
    if not parts or not isinstance(parts[0], Mapping | tuple | list):
        request.token_ids.SetInParent()
        _set("token_ids.ids", parts, lambda: request.token_ids.ids.extend(parts))
        return
    for index, message in enumerate(parts):
        role, content = _role_and_content(message, f"chat.messages[{index}]")
        _set(f"chat.messages[{index}]", message, lambda r=role, c=content: request.chat.messages.add(role=r, content=c))
    if add_generation_prompt is not None:
        _set(
            "chat.add_generation_prompt",
            add_generation_prompt,
            lambda: setattr(request.chat, "add_generation_prompt", add_generation_prompt),
        )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def _role_and_content(message: object, field: str) -> tuple[Any, Any]:
    parts: Any = message
    if isinstance(message, Mapping):
        if set(parts) == _MESSAGE_FIELDS:
            return parts["role"], parts["content"]
    elif _is_list(parts) and len(parts) == 2:
        return parts[0], parts[1]
    raise _refused(field, parts, "a message has a role and a content, and nothing else")


def _version(version: object) -> str:
    if isinstance(version, str):
        _set("model_version", version, version.encode)
        return "" if version == "0" else version
    if isinstance(version, int) and not isinstance(version, bool) and version >= 0:
        return str(version) if version else ""
    raise _refused("model_version", version, "a version is a number of 1 or more, or the name of a stage or alias")


def _schema_text(schema: object) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False, allow_nan=False)


def _set(field: str, value: object, put: Callable[[], object]) -> None:
    try:
        put()
    except UnicodeError:
        raise _refused(field, value, "it can't be encoded as UTF-8") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _refused(field, value, str(error)) from None


def _refused(field: str, value: object, why: str) -> ValidationError:
    # A prompt may be long.
    return ValidationError(f"{field} can't be {reprlib.repr(value)}: {why}", failures.FIELD_INVALID, field=field)
