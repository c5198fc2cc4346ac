"""Reads what a GGUF file says of its model, without its weights and without its vocabulary.

The file may be anybody's: no length in it is believed before it is compared with a bound and with the file's size, and
nothing of it stays in memory but the few values named in `GgufHeader`.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypeAlias

from headrace_common.gguf_types import BLOCKS, FILE_TYPES

MAGIC = b"GGUF"
VERSIONS = (2, 3)
POOLING_RANK = 4
"""The pooling type of models that tell how well a document answers a query."""

HEADER_BYTES_MAX = 128 << 20
KEYS_MAX = 4_096
TENSORS_MAX = 65_536
ELEMENTS_MAX = 1 << 21
KEY_BYTES_MAX = 1_024
TEXT_BYTES_MAX = 1 << 20
_DEPTH_MAX = 2
_AXES_MAX = 4
_LAYERS_MAX = 4_096
_COUNT_MAX = 1 << 31
_WINDOW_BYTES = 256 << 10
_ALIGNMENT_BYTES = 32
_KV_ITEM_BYTES = 2

_STRING, _ARRAY = 8, 9
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_NUMBERS = MappingProxyType({number: struct.Struct("<" + code) for number, code in _CODES.items()})
_NOT_INTEGERS = frozenset({6, 7, 12})
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_Value: TypeAlias = int | str | tuple[int, ...]
"""Of an array of integers the elements, where there are no more than layers can be."""


class GgufInvalid(ValueError):
    """The file is not a GGUF that can be served; the message says what is wrong, as the end of "the file ..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a file says of its model.

    Attributes:
        context_length: Tokens of one sequence that it was trained for.
        head_count_kv: The most that any layer has.
        kv_heads: Of all layers together.
        key_length: Elements of one head's key; `value_length` likewise.
        pooling_type: None where the file names none; 0 none, 1 mean, 2 first token, 3 last token, 4 rank.
        chat_template: Jinja; empty where the file has none.
        quantisation: For example `Q4_1`; empty where the file has none or an unknown one.
        parameters: Elements of all tensors together.
    """

    architecture: str
    name: str
    context_length: int
    block_count: int
    embedding_length: int
    head_count: int
    head_count_kv: int
    kv_heads: int
    key_length: int
    value_length: int
    vocabulary_size: int
    pooling_type: int | None
    causal_attention: bool
    chat_template: str
    quantisation: str
    parameters: int

    def kv_bytes_per_token(self) -> int:
        """Memory that one token takes in the cache of keys and values, at 16 bits an element."""
        return self.kv_heads * (self.key_length + self.value_length) * _KV_ITEM_BYTES


def read_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Reads the beginning of a file: some milliseconds for each 100,000 entries of its vocabulary, a few MiB at most.

    Raises:
        GgufInvalid: It is damaged, cut off, too large in some respect, or has no language model.
        OSError: It can't be read.
    """
    with Path(path).open("rb", buffering=0) as file:
        source = _Source(file, size=os.fstat(file.fileno()).st_size)
        if source.take(min(4, source.left)) != MAGIC:
            raise GgufInvalid("is not a GGUF")
        version = source.u32()
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            why = "has big-endian numbers" if swapped in VERSIONS else f"has GGUF version {version}, not 2 or 3"
            raise GgufInvalid(why)
        tensors = source.count(TENSORS_MAX, "tensors")
        keys = source.count(KEYS_MAX, "keys")
        values = _Values(source, keys)
        parameters = _read_tensors(source, tensors, alignment=values.alignment)
    return values.header(parameters)


class _Source:
    """Reads a file forward through a small window. `left` is how many bytes there still are."""

    def __init__(self, file: BinaryIO, *, size: int) -> None:
        self._file = file
        self._size = size
        self._window = b""
        self._start = 0
        self._at = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    @property
    def left(self) -> int:
        return self._size - self.position

    def _require(self, count: int) -> None:
        if count > self.left:
            raise GgufInvalid(f"is cut off: it ends at byte {self._size}, inside its header")
        if self.position + count > HEADER_BYTES_MAX:
            raise GgufInvalid(f"has a header of more than {HEADER_BYTES_MAX >> 20} MiB")

    def take(self, count: int) -> bytes:
        """The next bytes; `count` is bounded by the caller."""
        end = self._at + count
        if end > len(self._window):
            self._require(count)
            self._start += self._at
            self._file.seek(self._start)
            self._window = self._file.read(max(count, _WINDOW_BYTES))
            self._at, end = 0, count
            if len(self._window) < count:
                raise GgufInvalid("became shorter while it was read")
        taken = self._window[self._at : end]
        self._at = end
        return taken

    def skip(self, count: int) -> None:
        end = self._at + count
        if end <= len(self._window):
            self._at = end
            return
        self._require(count)
        self._start += end
        self._at, self._window = 0, b""

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def count(self, limit: int, what: str) -> int:
        number = self.u64()
        if number > limit:
            raise GgufInvalid(f"says that it has {number} {what}, at most {limit} are allowed")
        return number

    def text(self, limit: int, what: str) -> str:
        length = self.u64()
        if length > limit:
            raise GgufInvalid(f"has {what} of {length} bytes, at most {limit} are allowed")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise GgufInvalid(f"has {what} that is not UTF-8") from None

    def skip_text(self) -> None:
        self.skip(int(_U64.unpack(self.take(8))[0]))


class _Values:
    """The key-value pairs. Keeps what the header is made of, and the lengths of arrays."""

    def __init__(self, source: _Source, keys: int) -> None:
        self._source = source
        self._elements = 0
        self._kept: dict[str, _Value] = {}
        self._lengths: dict[str, int] = {}
        seen: set[str] = set()
        for _ in range(keys):
            key = source.text(KEY_BYTES_MAX, "a key")
            if key in seen:
                raise GgufInvalid(f"has the key {key[:64]!r} twice")
            seen.add(key)
            self._read(key, source.u32())

    @property
    def alignment(self) -> int:
        alignment = self._integer("general.alignment", default=_ALIGNMENT_BYTES)
        if alignment < 1 or alignment & (alignment - 1):
            raise GgufInvalid(f"has tensors aligned to {alignment} bytes, which is no power of two")
        return alignment

    def header(self, parameters: int) -> GgufHeader:
        architecture = self._text("general.architecture")
        if not architecture:
            raise GgufInvalid("names no architecture (`general.architecture`)")
        kind = self._text("general.type")
        if kind not in ("", "model"):
            raise GgufInvalid(f"holds no model, it is of the type {kind[:64]!r}")
        parts = self._integer("split.count", default=1)
        if parts > 1:
            raise GgufInvalid(f"is one of {parts} parts of a model; join them with `llama-gguf-split --merge`")

        def own(name: str, default: int | None = None, limit: int = _COUNT_MAX) -> int:
            return self._integer(f"{architecture}.{name}", default=default, limit=limit)

        blocks = own("block_count", limit=_LAYERS_MAX)
        width = own("embedding_length")
        heads = self._layers(f"{architecture}.attention.head_count", blocks, (0,) * blocks)
        kv_heads = self._layers(f"{architecture}.attention.head_count_kv", blocks, heads)
        most = max(heads, default=0)
        pooling = own("pooling_type", -1)
        return GgufHeader(
            architecture=architecture,
            name=self._text("general.name"),
            context_length=own("context_length"),
            block_count=blocks,
            embedding_length=width,
            head_count=most,
            head_count_kv=max(kv_heads, default=0),
            kv_heads=sum(kv_heads),
            key_length=own("attention.key_length", width // most if most else 0),
            value_length=own("attention.value_length", width // most if most else 0),
            vocabulary_size=self._lengths.get("tokenizer.ggml.tokens", 0) or own("vocab_size", 0),
            pooling_type=None if pooling < 0 else pooling,
            causal_attention=bool(own("attention.causal", 1)),
            chat_template=self._text("tokenizer.chat_template"),
            quantisation=FILE_TYPES.get(self._integer("general.file_type", default=-1), ""),
            parameters=parameters,
        )

    def _read(self, key: str, kind: int) -> None:
        source = self._source
        if kind == _STRING:
            if key in _TEXTS:
                self._kept[key] = source.text(TEXT_BYTES_MAX, key)
            else:
                source.skip_text()
        elif kind == _ARRAY:
            self._read_array(key)
        elif number := _NUMBERS.get(kind):
            value = number.unpack(source.take(number.size))[0]
            if kind not in _NOT_INTEGERS or key.endswith(".causal"):
                self._kept[key] = int(value)
        else:
            raise GgufInvalid(f"has a value of unknown type {kind} under the key {key[:64]!r}")

    def _read_array(self, key: str) -> None:
        kind, count = self._source.u32(), self._source.u64()
        number = _NUMBERS.get(kind)
        self._lengths[key] = count
        if number is not None and kind not in _NOT_INTEGERS and count <= _LAYERS_MAX and ".head_count" in key:
            raw = self._source.take(count * number.size)
            self._kept[key] = tuple(int(value) for (value,) in number.iter_unpack(raw))
        else:
            self._skip_array(key, kind, count, depth=1)

    def _skip_array(self, key: str, kind: int, count: int, *, depth: int) -> None:
        if number := _NUMBERS.get(kind):
            self._source.skip(count * number.size)
            return
        self._elements += count
        if self._elements > ELEMENTS_MAX:
            raise GgufInvalid(f"has more than {ELEMENTS_MAX} elements in its arrays, as of the key {key[:64]!r}")
        if kind == _STRING:
            for _ in range(count):
                self._source.skip_text()
        elif kind == _ARRAY and depth < _DEPTH_MAX:
            for _ in range(count):
                inner, length = self._source.u32(), self._source.u64()
                self._skip_array(key, inner, length, depth=depth + 1)
        else:
            what = "too deep" if kind == _ARRAY else f"of unknown type {kind}"
            raise GgufInvalid(f"has an array that is {what} under the key {key[:64]!r}")

    def _text(self, key: str) -> str:
        value = self._kept.get(key, "")
        if not isinstance(value, str):
            raise GgufInvalid(f"has no text under the key {key!r}")
        return value

    def _integer(self, key: str, *, default: int | None = None, limit: int = _COUNT_MAX) -> int:
        value = self._kept.get(key, default)
        if value is default and default is not None:
            return default
        if not isinstance(value, int) or not (0 if default is not None else 1) <= value <= limit:
            why = f"has no number from 1 to {limit} under the key {key[:64]!r}"
            raise GgufInvalid(f"{why}: it is no language model, or damaged")
        return value

    def _layers(self, key: str, blocks: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """A number of each layer; a file may state one for all of them."""
        value = self._kept.get(key, default)
        each = (value,) * blocks if isinstance(value, int) else value
        if not isinstance(each, tuple) or len(each) != blocks or any(not 0 <= number <= _COUNT_MAX for number in each):
            raise GgufInvalid(f"has no number for each of its {blocks} layers under the key {key[:64]!r}")
        return each


_TEXTS = frozenset({"general.architecture", "general.name", "general.type", "tokenizer.chat_template"})


def _read_tensors(source: _Source, count: int, *, alignment: int) -> int:
    """The elements of all tensors together; refuses a file that ends before its last tensor does."""
    parameters = 0
    last: tuple[int, str] = (0, "")
    for _ in range(count):
        name = source.text(KEY_BYTES_MAX, "a tensor's name")
        axes = source.u32()
        if axes > _AXES_MAX:
            raise GgufInvalid(f"has a tensor {name[:64]!r} of {axes} axes, at most {_AXES_MAX} are allowed")
        elements = math.prod(source.u64() for _ in range(axes))
        kind, offset = source.u32(), source.u64()
        parameters += elements
        block, block_bytes = BLOCKS.get(kind, (1, 0))
        last = max(last, (offset + elements // block * block_bytes, name))
    start = -(-source.position // alignment) * alignment
    if count and last[0] > source.position + source.left - start:
        raise GgufInvalid(f"is cut off: it ends before its tensor {last[1][:64]!r} does")
    return parameters
