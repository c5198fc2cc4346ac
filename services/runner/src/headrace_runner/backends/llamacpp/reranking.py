"""How well documents answer a query."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headrace_runner.backends.llamacpp.embedding import split
from headrace_runner.backends.llamacpp.process import ModelProcess
from headrace_runner.backends.llamacpp.tensor_model import TensorModel, texts_of
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.signature import TensorSpec

QUERY = "query"
DOCUMENTS = "documents"
SCORE = "score"

# The beginning, the end and what is between query and document.
_AROUND = 4


class RerankModel(TensorModel):
    """Gives each document a score; higher is better."""

    def __init__(self, *, process: ModelProcess, context_length: int, vocabulary_size: int) -> None:
        super().__init__(process=process, context_length=context_length, vocabulary_size=vocabulary_size)
        self.inputs = [TensorSpec(QUERY, "BYTES", (1,)), TensorSpec(DOCUMENTS, "BYTES", (-1,))]
        self.outputs = [TensorSpec(SCORE, "FP32", (-1,))]

    async def _compute(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        (query,) = texts_of(QUERY, inputs[QUERY])
        documents = texts_of(DOCUMENTS, inputs[DOCUMENTS])
        asked = len(await self._tokens(QUERY, 0, query))
        sizes: list[int] = []
        for index, document in enumerate(documents):
            sizes.append(asked + len(await self._tokens(DOCUMENTS, index, document)) + _AROUND)
            self._require_room(DOCUMENTS, index, sizes[-1])
        scores = np.empty(len(documents), dtype=np.float32)
        done = 0
        for part in split(documents, sizes, self._context_length):
            answer = await self._client.ask("POST", "/rerank", {"query": query, "documents": part})
            for result in answer["results"]:
                scores[done + result["index"]] = result["relevance_score"]
            done += len(part)
        return {SCORE: scores}
