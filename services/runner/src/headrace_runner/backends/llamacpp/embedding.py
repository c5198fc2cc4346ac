"""Vectors of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from headrace_runner.backends.llamacpp.process import ModelProcess
from headrace_runner.backends.llamacpp.tensor_model import TensorModel, texts_of
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.signature import RawInput, TensorSpec

TEXT = "text"
IDS = "token_ids"
EMBEDDING = "embedding"
TOKENS = "tokens"

T = TypeVar("T")


class EmbeddingModel(TensorModel):
    """Turns each text into a vector of length 1, and tells how many tokens it has. Implements `TakesInstead`.

    In place of texts it takes their tokens, a row of INT64 for each, padded with -1 at its end.

    Args:
        embedding_length: Elements of a vector.
    """

    def __init__(
        self, *, process: ModelProcess, context_length: int, vocabulary_size: int, embedding_length: int
    ) -> None:
        super().__init__(process=process, context_length=context_length, vocabulary_size=vocabulary_size)
        self._width = embedding_length
        self.inputs = [TensorSpec(TEXT, "BYTES", (-1,))]
        self.instead = RawInput(TensorSpec(IDS, "INT64", (-1, -1), optional=True), frozenset({TEXT}))
        self.outputs = [TensorSpec(EMBEDDING, "FP32", (-1, embedding_length)), TensorSpec(TOKENS, "INT32", (-1,))]

    async def _compute(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if IDS in inputs:
            prompts = self._given_tokens(IDS, inputs[IDS])
        else:
            texts = texts_of(TEXT, inputs[TEXT])
            prompts = [await self._tokens(TEXT, index, text) for index, text in enumerate(texts)]
        vectors: list[list[float]] = []
        sizes = [len(prompt) for prompt in prompts]
        for part in split(prompts, sizes, self._context_length):
            answer = await self._client.ask("POST", "/v1/embeddings", {"input": part})
            vectors += [row["embedding"] for row in sorted(answer["data"], key=lambda row: row["index"])]
        return {
            EMBEDDING: np.array(vectors, dtype=np.float32).reshape(len(prompts), self._width),
            TOKENS: np.array(sizes, dtype=np.int32),
        }


def split(items: Sequence[T], sizes: Sequence[int], limit: int) -> Iterator[list[T]]:
    """Groups of neighbours with `limit` together at most, or one that is larger: what is asked for can't be stopped."""
    group: list[T] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += size
    if group:
        yield group
