"""Writes small GGUF files, sound ones and others."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = int | float | bool | str | Sequence[int] | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of a file: its type's number, and where its bytes begin after the header."""

    name: str
    axes: Sequence[int] = (4,)
    kind: int = 0
    offset: int = 0


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def typed(value: Value) -> bytes:
    """A value after the number of its type."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<Iq", 11, value) if value < 0 else struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(str(item)) for item in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + b"".join(struct.pack("<i", int(item)) for item in value)


def toy_values(**changes: Value | None) -> dict[str, Value]:
    """The keys of a tiny model; a key of `changes` has `__` for a dot, and None leaves it out."""
    values: dict[str, Value | None] = {
        "general.architecture": "llama",
        "general.name": "Toy",
        "general.file_type": 7,
        "llama.context_length": 2_048,
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.tokens": ["<s>", "a", "b"],
        "tokenizer.ggml.scores": [0, 1, 2],
        "tokenizer.chat_template": "{{ messages }}",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return {key: value for key, value in values.items() if value is not None}


def gguf(
    values: Mapping[str, Value] | None = None,
    *,
    tensors: Sequence[Tensor] = (Tensor(name="token_embd.weight"),),
    data: bytes = bytes(16),
    version: int = 3,
) -> bytes:
    """A whole file; of a tiny model where nothing is said."""
    pairs = toy_values() if values is None else values
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(pairs))]
    parts += [text(key) + typed(value) for key, value in pairs.items()]
    for tensor in tensors:
        parts.append(text(tensor.name) + struct.pack(f"<I{len(tensor.axes)}Q", len(tensor.axes), *tensor.axes))
        parts.append(struct.pack("<IQ", tensor.kind, tensor.offset))
    header = b"".join(parts)
    return header + bytes(-len(header) % 32) + data
