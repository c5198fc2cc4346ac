"""What is made of a model's outputs: embeddings, labels, numbers of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import ModelError, TensorError
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.signature import TensorSpec

# Keeps vectors of zeros finite.
_NORM_MIN = 1e-12


class AnswerMaker(Protocol):
    """Makes outputs of those of the model. Called from several threads at once."""

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """The outputs that it makes."""
        ...

    @property
    def needs(self) -> Sequence[str]:
        """The outputs of the model that it makes them of."""
        ...

    def make(self, computed: Mapping[str, Array], mask: Array | None) -> Mapping[str, Array]:
        """The outputs by name.

        Args:
            computed: Outputs of the model.
            mask: 1 where a row has a token, 0 where it has padding; None where nothing is padding.

        Raises:
            ModelError: MODEL_EXECUTION_FAILED: the model's output doesn't have the axes that it should.
            TensorError: TENSOR_OUTPUT_UNKNOWN (INVALID_ARGUMENT): the request has nothing to make it of.
        """
        ...


class EmbeddingMaker:
    """One vector of each row's tokens. An `AnswerMaker`."""

    def __init__(self, *, policy: manifest_pb2.EmbeddingProcessor, spec: TensorSpec) -> None:
        self._policy = policy
        self._pooled = len(spec.shape) == 3
        self.needs = (spec.name,)
        self.specs = (TensorSpec(policy.output, "FP32", (spec.shape[0], spec.shape[-1])),)

    def make(self, computed: Mapping[str, Array], mask: Array | None) -> Mapping[str, Array]:
        vectors = computed[self.needs[0]].astype(np.float32, copy=False)
        if vectors.ndim != (3 if self._pooled else 2):
            raise _unexpected(self.needs[0], vectors)
        if self._pooled:
            vectors = self._pool(vectors, mask)
        if self._policy.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _NORM_MIN)
        return {self._policy.output: vectors}

    def _pool(self, vectors: Array, mask: Array | None) -> Array:
        rows, tokens, _ = vectors.shape
        if not tokens:
            raise _unexpected(self.needs[0], vectors)
        weights: Array = np.ones((rows, tokens), np.float32) if mask is None else mask.astype(np.float32)
        if weights.shape != (rows, tokens):
            raise _unexpected(self.needs[0], vectors)
        match self._policy.pooling:
            case manifest_pb2.POOLING_CLS:
                return vectors[np.arange(rows), weights.argmax(axis=1)]
            case manifest_pb2.POOLING_LAST:
                return vectors[np.arange(rows), tokens - 1 - weights[:, ::-1].argmax(axis=1)]
            case _:
                total: Array = np.matmul(weights[:, np.newaxis], vectors)[:, 0]
                return total / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)


class LabelMaker:
    """The best classes of each row. An `AnswerMaker`."""

    def __init__(self, *, policy: manifest_pb2.LabelProcessor, spec: TensorSpec, class_labels: Sequence[str]) -> None:
        self._policy = policy
        self._names = np.array([label.encode() for label in class_labels], dtype=object)
        self.needs = (spec.name,)
        shape = (spec.shape[0], policy.top_k if spec.shape[1] != -1 else -1)
        self.specs = (TensorSpec(policy.labels, "BYTES", shape), TensorSpec(policy.scores, "FP32", shape))

    def make(self, computed: Mapping[str, Array], mask: Array | None) -> Mapping[str, Array]:
        del mask
        numbers = computed[self.needs[0]]
        if numbers.ndim != 2 or numbers.shape[1] > len(self._names):
            raise _unexpected(self.needs[0], numbers)
        scores = self._scores(numbers.astype(np.float32, copy=False))
        ranked = np.where(np.isnan(scores), -np.inf, scores)
        # Stable, so that equal ones stay in the order of the classes.
        best = np.argsort(-ranked, axis=1, kind="stable")[:, : self._policy.top_k]
        return {
            self._policy.labels: self._names[best],
            self._policy.scores: np.take_along_axis(scores, best, axis=1),
        }

    def _scores(self, numbers: Array) -> Array:
        match self._policy.activation:
            case manifest_pb2.LABEL_ACTIVATION_SOFTMAX:
                powers = np.exp(numbers - numbers.max(axis=1, keepdims=True, initial=-np.inf))
                return powers / powers.sum(axis=1, keepdims=True)
            case manifest_pb2.LABEL_ACTIVATION_SIGMOID:
                # By the hyperbolic tangent, which has no power that could overflow.
                return 0.5 * (1 + np.tanh(0.5 * numbers))
            case _:
                return numbers


class TokenCounter:
    """The number of each text's tokens. An `AnswerMaker`.

    Args:
        name: The output.
        ids: The model's input for the tokens.
        beside: An output of the model, because models compute at least one.
    """

    def __init__(self, *, name: str, ids: TensorSpec, beside: str) -> None:
        self._name = name
        self.needs = (beside,)
        self.specs = (TensorSpec(name, "INT32", ids.shape[:1]),)

    def make(self, computed: Mapping[str, Array], mask: Array | None) -> Mapping[str, Array]:
        del computed
        if mask is None:
            raise TensorError(
                f"output '{self._name}' counts the tokens of texts, and the request has none",
                entry=catalogue.TENSOR_OUTPUT_UNKNOWN,
                context={"tensor": self._name},
            )
        return {self._name: mask.astype(np.int32).sum(axis=1, dtype=np.int32)}


def _unexpected(name: str, array: Array) -> ModelError:
    return ModelError(
        f"the model gave '{name}' the shape {list(array.shape)}, of which the manifest's processing can't be made",
        entry=catalogue.MODEL_EXECUTION_FAILED,
    )
