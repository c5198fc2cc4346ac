"""What a caller asks to be generated, checked in all that can be checked without the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from headrace.gateway.v1.generation_pb2 import ChatPrompt, GenerateRequest
from headrace.runner.internal.v1.mesh_pb2 import GenerateCall
from headrace_common import catalogue, wire
from headrace_common.errors import HeadraceError, ModelError, ValidationError
from headrace_runner.backends.generation import ROLES, Chat, ChatMessage, Prompt, Sampling
from headrace_runner.execution.generation.entries import check_entries
from headrace_runner.execution.generation.sampling import (
    TOP_LOGPROBS_MAX,
    Given,
    Range,
    check_sampling,
    invalid,
    too_long,
)
from headrace_runner.tensors.output_form import OutputForm

_ID_CHARACTERS_MAX = 256
_MESSAGES_MAX = 1_024
# No tokenizer makes fewer tokens of a text than this, so longer ones need not be tried.
_BYTES_PER_TOKEN_MAX = 256
# What a request may have beside its prompt, more than all bounds of its fields together.
_BESIDE_PROMPT_BYTES_MAX = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a model can do at most.

    Attributes:
        name: Model and version for messages.
        slots: Completions at the same time.
        context_length: Tokens of one sequence, prompt and output together.
    """

    name: str
    slots: int
    context_length: int

    @property
    def text_max(self) -> int:
        """Characters that a prompt may have."""
        return self.context_length * _BYTES_PER_TOKEN_MAX

    def check_payload(self, payload: wire.Buffer) -> None:
        """Refuses a request that would take long to read only to be refused.

        Raises:
            ValidationError: FIELD_TOO_LONG (INVALID_ARGUMENT).
        """
        bytes_max = self.text_max + _BESIDE_PROMPT_BYTES_MAX
        if len(payload) > bytes_max:
            raise too_long("prompt", f"makes a request of {len(payload)} bytes", bytes_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A checked request to generate.

    Attributes:
        id: Given back with every answer.
        sampling: Of the first completion; the seed of each further one is one higher.
        completions: How many to make.
        emitted: Tokens that the caller has already: they follow the prompt and count for `max_tokens`.
        report_progress: Whether to tell how much of the prompt has been computed.
        streams: Whether text is sent as it comes, and not whole at the end.
        echo: Text to be sent before what was generated.
        form: How tensors are to be written.
        paths: Where the request has what `GenerateRequest` has elsewhere, by the path there.
    """

    id: str
    prompt: Prompt
    sampling: Sampling
    completions: int = 1
    emitted: Sequence[int] = ()
    report_progress: bool = False
    streams: bool = True
    echo: str = ""
    form: OutputForm | None = None
    paths: Mapping[str, str] = field(default_factory=dict[str, str])


def read_generate_call(payload: wire.Buffer, limits: ModelLimits, seeds: Callable[[], int]) -> GenerationRequest:
    """Reads a serialised `GenerateCall`.

    Raises:
        ValidationError: REQUEST_MALFORMED, FIELD_REQUIRED, FIELD_INVALID or FIELD_TOO_LONG (INVALID_ARGUMENT).
        ModelError: CONTEXT_LENGTH_EXCEEDED (INVALID_ARGUMENT).
    """
    check_entries(payload, limits.context_length)
    try:
        call = GenerateCall.FromString(bytes(payload))
    except DecodeError:
        raise wire.malformed() from None
    request = call.request
    if len(request.id) > _ID_CHARACTERS_MAX:
        raise too_long("id", f"has {len(request.id)} characters", _ID_CHARACTERS_MAX)
    prompt = _prompt_of(request, limits)
    completions = check_completions("completions", request.completions or 1, limits)
    if call.emitted and completions > 1:
        raise invalid("emitted", "can't be given with several completions")
    top_logprobs = request.top_logprobs if request.HasField("top_logprobs") else None
    if top_logprobs is not None:
        Range(0, TOP_LOGPROBS_MAX, whole=True).check("top_logprobs", top_logprobs)
    given = {entry.name: Given(f"sampling.{entry.name}", value) for entry, value in request.sampling.ListFields()}
    return GenerationRequest(
        id=request.id,
        prompt=prompt,
        sampling=check_sampling(given, top_logprobs=top_logprobs, seeds=seeds),
        completions=completions,
        emitted=tuple(call.emitted),
        report_progress=request.report_progress,
    )


def check_completions(field: str, value: object, limits: ModelLimits) -> int:
    """How many completions; each needs a slot at the same time.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT).
    """
    return Range(1, limits.slots, whole=True).check(field, value)


def check_text(field: str, text: str, limits: ModelLimits) -> str:
    """A prompt's text.

    Raises:
        ValidationError: FIELD_REQUIRED or FIELD_TOO_LONG (INVALID_ARGUMENT).
    """
    if not text:
        raise _required(field)
    if len(text) > limits.text_max:
        raise too_long(field, f"has {len(text)} characters", limits.text_max)
    return text


def context_exceeded(limits: ModelLimits, tokens: int) -> ModelError:
    """CONTEXT_LENGTH_EXCEEDED: the prompt leaves no room for a token."""
    return ModelError(
        f"the prompt has {tokens} tokens; {limits.name} has a context of {limits.context_length}, "
        "of which at least one is for the output",
        entry=catalogue.CONTEXT_LENGTH_EXCEEDED,
        context={"model": limits.name, "actual": tokens, "limit": limits.context_length},
    )


def tokens_left(request: GenerationRequest, prompt_tokens: int, limits: ModelLimits) -> int:
    """Tokens that each completion may still have: what was asked for, cut to the room in the context.

    0 when the tokens that the caller has already are all.

    Raises:
        ModelError: CONTEXT_LENGTH_EXCEEDED (INVALID_ARGUMENT): the prompt alone has no room.
        ValidationError: FIELD_REQUIRED (INVALID_ARGUMENT): the prompt has no tokens.
    """
    if not prompt_tokens:
        raise _required("prompt")
    if prompt_tokens >= limits.context_length:
        raise context_exceeded(limits, prompt_tokens)
    emitted = len(request.emitted)
    return max(0, min(request.sampling.max_tokens, limits.context_length - prompt_tokens) - emitted)


def as_sent(error: HeadraceError, request: GenerationRequest) -> None:
    """Makes an error name a field by the path at which the request has it."""
    path = error.field
    if path is not None and (sent := request.paths.get(path)) is not None:
        error.message = error.message.replace(path, sent)
        error.field = sent
        if "field" in error.context:
            error.context["field"] = sent


def _prompt_of(request: GenerateRequest, limits: ModelLimits) -> Prompt:
    match request.WhichOneof("prompt"):
        case "text":
            return check_text("text", request.text, limits)
        case "token_ids":
            ids = request.token_ids.ids
            if not ids:
                raise _required("token_ids.ids")
            if len(ids) >= limits.context_length:
                raise context_exceeded(limits, len(ids))
            return list(ids)
        case "chat":
            return _chat_of(request.chat, limits)
        case _:
            raise _required("prompt")


def _chat_of(chat: ChatPrompt, limits: ModelLimits) -> Chat:
    if not chat.messages:
        raise _required("chat.messages")
    if len(chat.messages) > _MESSAGES_MAX:
        raise too_long("chat.messages", f"has {len(chat.messages)} messages", _MESSAGES_MAX)
    characters = 0
    messages: list[ChatMessage] = []
    for index, message in enumerate(chat.messages):
        if message.role not in ROLES:
            raise invalid(f"chat.messages[{index}].role", f"is unknown; it must be one of {', '.join(ROLES)}")
        characters += len(message.content)
        messages.append(ChatMessage(message.role, message.content))
    if characters > limits.text_max:
        raise too_long("chat.messages", f"have {characters} characters", limits.text_max)
    begins = chat.add_generation_prompt if chat.HasField("add_generation_prompt") else True
    return Chat(messages=messages, add_generation_prompt=begins)


def _required(field: str) -> ValidationError:
    return ValidationError(
        f"{field} must not be empty", entry=catalogue.FIELD_REQUIRED, context={"field": field}, field=field
    )
