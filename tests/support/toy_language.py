"""A language model of a few kilobytes that says long words quickly: what it makes means nothing, but is much."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

WIDTH = 32
WORDS = 64
WORD_BYTES = 4096
CONTEXT = 2048

_STRING, _ARRAY, _UINT32, _FLOAT32, _INT32, _BOOL = 8, 9, 4, 6, 5, 7
_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1
_ALIGNMENT = 32


def word(index: int, size: int) -> str:
    """The text of one of the tokens that the model makes."""
    return f" {index:03d}".ljust(size, "abcdefghijklmnopqrstuvwxyz"[index % 26])


def toy_language_model(word_bytes: int = WORD_BYTES) -> bytes:
    """A GGUF with one layer that does nothing; every token but its words is as unlikely as can be, its end too."""
    chance = np.random.default_rng(5)
    special = [("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL)]
    byte_tokens = [(f"<0x{value:02X}>", _BYTE) for value in range(256)]
    # The tokenizer writes spaces so.
    words = [(word(index, word_bytes).replace(" ", "\u2581"), _NORMAL) for index in range(WORDS)]
    vocabulary = [*special, *byte_tokens, *words]
    unlikely = len(vocabulary) - WORDS
    embedding = 1 + chance.normal(0, 0.3, (len(vocabulary), WIDTH))
    output = np.concatenate([-np.ones((unlikely, WIDTH)), 1 + chance.normal(0, 0.3, (WORDS, WIDTH))])
    nothing = np.zeros((WIDTH, WIDTH))
    tensors = {
        "token_embd.weight": embedding,
        "output_norm.weight": np.ones(WIDTH),
        "output.weight": output,
        "blk.0.attn_norm.weight": np.ones(WIDTH),
        "blk.0.ffn_norm.weight": np.ones(WIDTH),
    } | {
        f"blk.0.{name}.weight": nothing
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    metadata = [
        _text("general.architecture", "llama"),
        _text("general.name", "toy"),
        _number("llama.context_length", CONTEXT),
        _number("llama.embedding_length", WIDTH),
        _number("llama.block_count", 1),
        _number("llama.feed_forward_length", WIDTH),
        _number("llama.attention.head_count", 1),
        _number("llama.attention.head_count_kv", 1),
        _number("llama.rope.dimension_count", WIDTH),
        _key("llama.attention.layer_norm_rms_epsilon", _FLOAT32) + struct.pack("<f", 1e-5),
        _text("tokenizer.ggml.model", "llama"),
        _array("tokenizer.ggml.tokens", _STRING, (_string(token) for token, _ in vocabulary)),
        _array("tokenizer.ggml.scores", _FLOAT32, (struct.pack("<f", 0.0) for _ in vocabulary)),
        _array("tokenizer.ggml.token_type", _INT32, (struct.pack("<i", kind) for _, kind in vocabulary)),
        _number("tokenizer.ggml.unknown_token_id", 0),
        _number("tokenizer.ggml.bos_token_id", 1),
        _number("tokenizer.ggml.eos_token_id", 2),
        _key("tokenizer.ggml.add_bos_token", _BOOL) + b"\1",
    ]
    return _file(metadata, {name: values.astype(np.float32) for name, values in tensors.items()})


def _file(metadata: list[bytes], tensors: dict[str, NDArray[np.float32]]) -> bytes:
    described, content = bytearray(), bytearray()
    for name, values in tensors.items():
        # The innermost axis comes first.
        axes = values.shape[::-1]
        described += _string(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, 0, len(content))
        content += values.tobytes()
        content += bytes(-len(content) % _ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata) + bytes(described)
    return head + bytes(-len(head) % _ALIGNMENT) + bytes(content)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _key(name: str, kind: int) -> bytes:
    return _string(name) + struct.pack("<I", kind)


def _text(name: str, value: str) -> bytes:
    return _key(name, _STRING) + _string(value)


def _number(name: str, value: int) -> bytes:
    return _key(name, _UINT32) + struct.pack("<I", value)


def _array(name: str, kind: int, items: Iterable[bytes]) -> bytes:
    packed = list(items)
    return _key(name, _ARRAY) + struct.pack("<IQ", kind, len(packed)) + b"".join(packed)
