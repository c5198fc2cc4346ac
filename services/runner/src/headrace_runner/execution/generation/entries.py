"""Counts what a request to generate has before it is parsed: parsing takes time and memory for each entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from headrace.gateway.v1.generation_pb2 import ChatPrompt, GenerateRequest, SamplingParameters, TokenIds
from headrace.runner.internal.v1.mesh_pb2 import GenerateCall
from headrace_common import wire
from headrace_runner.execution.generation.sampling import too_long

ENTRIES_MAX = wire.REQUEST_FIELDS_MAX
"""Entries of lists and fields of messages, at all depths; about twice as many as the bounds of all lists allow."""

# So much is parsed in a millisecond, whatever it is.
_SMALL_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class _Part:
    """A message within the request: its path, for errors, and the messages in it by the field's number.

    Attributes:
        numbers: The field that is a packed list of small numbers; 0 where none is.
    """

    path: str
    parts: Mapping[int, _Part] = field(default_factory=dict[int, "_Part"])
    numbers: int = 0


_CHAT = _Part("chat.messages", {ChatPrompt.MESSAGES_FIELD_NUMBER: _Part("chat.messages")})
_SAMPLING = _Part("sampling", {SamplingParameters.LOGIT_BIAS_FIELD_NUMBER: _Part("sampling.logit_bias")})
_TOKENS = _Part("token_ids.ids", numbers=TokenIds.IDS_FIELD_NUMBER)
_REQUEST = _Part(
    "prompt",
    {
        GenerateRequest.TOKEN_IDS_FIELD_NUMBER: _TOKENS,
        GenerateRequest.CHAT_FIELD_NUMBER: _CHAT,
        GenerateRequest.SAMPLING_FIELD_NUMBER: _SAMPLING,
    },
)
_CALL = _Part("prompt", {GenerateCall.REQUEST_FIELD_NUMBER: _REQUEST}, numbers=GenerateCall.EMITTED_FIELD_NUMBER)


def check_entries(call: wire.Buffer, tokens_max: int) -> None:
    """Walks a serialised `GenerateCall`, for some milliseconds at most, whatever it has.

    Args:
        call: The message.
        tokens_max: Tokens that a list may have; up to twice as many are left to better checks.

    Raises:
        ValidationError: FIELD_TOO_LONG or REQUEST_MALFORMED (INVALID_ARGUMENT).
    """
    if len(call) > _SMALL_BYTES:
        _walk(call, _CALL, ENTRIES_MAX, 2 * tokens_max)


def _walk(buffer: wire.Buffer, part: _Part, left: int, tokens_max: int) -> int:
    """Returns how many of the `left` entries are left."""
    for number, kind, value in wire.fields(buffer, groups=False):
        left -= 1
        if left < 0:
            raise too_long(part.path, "makes a request of more fields and entries than that", ENTRIES_MAX)
        if kind != wire.LENGTH_DELIMITED or isinstance(value, int):
            continue
        inner = part.parts.get(number)
        if inner is not None:
            left = _walk(value, inner, left, tokens_max)
        elif number == part.numbers and _numbers(value) > tokens_max:
            raise too_long(part.path, f"has {_numbers(value)} tokens", tokens_max)
    return left


def _numbers(packed: memoryview) -> int:
    """How many varints a packed list has: each ends with a byte that says so."""
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) < 0x80))
