"""Texts to tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
from tokenizers import Tokenizer

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import ModelError, TensorError
from headrace_runner.processing.raw_input import Made, element_error
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.signature import RawInput, TensorSpec

_TOKENIZER_BYTES_MAX = 32 << 20
_PAD_TOKENS = ("[PAD]", "<pad>")


class TokenRow(NamedTuple):
    """The tokens of one text."""

    ids: Array
    type_ids: Array


class TextReader:
    """Tokenizes texts. A `RawReader`.

    Args:
        policy: How, complete.
        specs: The model's inputs by name.
        folder: Where the artefact's files are.

    Raises:
        ModelError: MODEL_LOAD_FAILED (FAILED_PRECONDITION): the tokenizer can't be read, or leaves no room for text.
    """

    def __init__(self, *, policy: manifest_pb2.TextProcessor, specs: dict[str, TensorSpec], folder: Path) -> None:
        self._policy = policy
        self._ids = specs[policy.ids]
        self._mask = specs[policy.attention_mask] if policy.attention_mask else None
        self._type_ids = specs[policy.type_ids] if policy.type_ids else None
        made = [spec for spec in (self._ids, self._mask, self._type_ids) if spec is not None]
        self.raw = RawInput(
            TensorSpec(policy.input, "BYTES", self._ids.shape[:1], optional=True),
            frozenset(spec.name for spec in made),
        )
        self._row_bytes = sum(DATATYPES[spec.datatype].item_bytes for spec in made) * policy.max_length
        self._tokenizer: Any = _opened(folder / policy.tokenizer, policy.tokenizer)
        self._pad, self._pad_type, self._pads_left = _padding(self._tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        added = self._tokenizer.num_special_tokens_to_add(False) if policy.special_tokens else 0
        if added >= policy.max_length:
            raise _unusable(f"adds {added} tokens to each text, the model takes {policy.max_length}")
        if policy.truncate:
            self._tokenizer.enable_truncation(policy.max_length)

    @property
    def row_bytes(self) -> int:
        return self._row_bytes

    def read(self, elements: Sequence[bytes]) -> list[TokenRow]:
        """The tokens of each text.

        Raises:
            TensorError: TENSOR_ELEMENT_INVALID or TEXT_TOO_LONG (INVALID_ARGUMENT).
        """
        texts = [self._text(index, element) for index, element in enumerate(elements)]
        # Not `encode`, which would keep all other threads of the process from running meanwhile.
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._policy.special_tokens)
        rows: list[TokenRow] = []
        for index, encoding in enumerate(encodings):
            count = len(encoding)
            if not count:
                raise self._invalid(index, "has no tokens")
            if count > self._policy.max_length:
                raise self._too_long(index, count, self._policy.max_length, "tokens")
            rows.append(TokenRow(np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64)))
        return rows

    def join(self, rows: Sequence[TokenRow]) -> Made:
        whole = self._policy.padding == manifest_pb2.TEXT_PADDING_MAX_LENGTH
        length = self._policy.max_length if whole else max(len(row.ids) for row in rows)
        shape = (len(rows), length)
        ids, type_ids = np.full(shape, self._pad, np.int64), np.full(shape, self._pad_type, np.int64)
        mask = np.zeros(shape, np.int64)
        for index, row in enumerate(rows):
            count = len(row.ids)
            place = slice(length - count, length) if self._pads_left else slice(count)
            ids[index, place] = row.ids
            type_ids[index, place] = row.type_ids
            mask[index, place] = 1
        inputs = {self._ids.name: _as(ids, self._ids)}
        if self._mask is not None:
            inputs[self._mask.name] = _as(mask, self._mask)
        if self._type_ids is not None:
            inputs[self._type_ids.name] = _as(type_ids, self._type_ids)
        return Made(inputs, mask)

    def _text(self, index: int, element: bytes) -> str:
        if len(element) > self._policy.bytes_max:
            raise self._too_long(index, len(element), self._policy.bytes_max, "bytes")
        try:
            return element.decode()
        except UnicodeDecodeError:
            raise self._invalid(index, "is not UTF-8") from None

    def _too_long(self, index: int, actual: int, limit: int, what: str) -> TensorError:
        complaint = f"has {actual} {what}, the model takes {limit}"
        return element_error(self._policy.input, index, complaint, catalogue.TEXT_TOO_LONG, limit=limit, actual=actual)

    def _invalid(self, index: int, complaint: str) -> TensorError:
        return element_error(self._policy.input, index, complaint, catalogue.TENSOR_ELEMENT_INVALID)


def _as(array: Array, spec: TensorSpec) -> Array:
    return array.astype(DATATYPES[spec.datatype].dtype, copy=False)


def _opened(path: Path, name: str) -> Tokenizer:
    # In the thread that asks, which is the replica's: threads of the library's own would take every core of the
    # machine, and from tenants that should come first.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Reading one keeps all other threads of the process from running, for some 30 ms a MiB.
    if path.stat().st_size > _TOKENIZER_BYTES_MAX:
        raise _unusable(f"has {path.stat().st_size} bytes, runners read {_TOKENIZER_BYTES_MAX}")
    try:
        return Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the library's panics are no Exceptions
        structlog.stdlib.get_logger("processing").warning("can't read a tokenizer", file=name, error=str(error))
        raise _unusable("is no tokenizer of the tokenizers library that this runner can read") from None


def _padding(tokenizer: Any) -> tuple[int, int, bool]:
    """Id and type of the token that fills rows up, and whether it does on their left. The mask says where it is."""
    stated = tokenizer.padding
    if stated is not None:
        return stated["pad_id"], stated["pad_type_id"], stated["direction"] == "left"
    known = (tokenizer.token_to_id(token) for token in _PAD_TOKENS)
    return next((token_id for token_id in known if token_id is not None), 0), 0, False


def _unusable(complaint: str) -> ModelError:
    return ModelError(f"the version's tokenizer {complaint}", entry=catalogue.MODEL_LOAD_FAILED)
