"""What a manifest may say of the outputs that are made after the model: embeddings and labels. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.registry.v1.manifest_pb2 import (
    LABEL_ACTIVATION_NONE,
    POOLING_MEAN,
    EmbeddingProcessor,
    LabelActivation,
    LabelProcessor,
    Pooling,
    TensorSpec,
)
from headrace_registry.field_rules import TEXT_CHARS_MAX
from headrace_registry.manifest_faults import mismatch, wrong

EMBEDDING = "embedding"
TOP_DEFAULT = 5
TOP_MAX = 1_000

_FLOATS = ("FP16", "FP32", "FP64")
_NOT_NUMBERS = ("BF16", "BOOL", "BYTES")


def embedding_name(embedding: EmbeddingProcessor) -> str:
    """The output that is made."""
    return embedding.output or EMBEDDING


def label_names(labels: LabelProcessor) -> tuple[str, str]:
    """The outputs that are made: the labels, and their scores."""
    return labels.labels or "label", labels.scores or "score"


def check_embedding(embedding: EmbeddingProcessor) -> None:
    """Refuses what can't be right whatever the model's tensors are.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT).
    """
    if embedding.pooling not in Pooling.values():
        raise wrong(
            "processing.embedding.pooling", f"is {embedding.pooling}, it must be one of {', '.join(Pooling.keys())}"
        )


def check_labels(labels: LabelProcessor, class_labels: Sequence[str]) -> None:
    """The same for labels, which need names of classes."""
    if not class_labels:
        raise wrong("processing.labels", "needs `class_labels`, and there are none")
    if labels.top_k > TOP_MAX:
        raise wrong("processing.labels.top_k", f"is {labels.top_k}, at most {TOP_MAX} is allowed")
    if labels.activation not in LabelActivation.values():
        raise wrong(
            "processing.labels.activation",
            f"is {labels.activation}, it must be one of {', '.join(LabelActivation.keys())}",
        )


def complete_embedding(embedding: EmbeddingProcessor, outputs: Sequence[TensorSpec]) -> TensorSpec:
    """Fills in what follows from the model's outputs; the output that is made.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT).
    """
    field = "processing.embedding"
    fitting = [spec for spec in outputs if spec.datatype in _FLOATS and len(spec.shape) in (2, 3)]
    if not embedding.tensor:
        fitting = (
            [spec for spec in fitting if spec.name == "last_hidden_state"]
            or [spec for spec in fitting if len(spec.shape) == 3]
            or fitting
        )
    spec = _chosen(f"{field}.tensor", embedding.tensor, fitting, "floating-point output with two or three axes")
    embedding.output = embedding_name(embedding)
    embedding.tensor = spec.name
    if len(spec.shape) == 3:
        embedding.pooling = embedding.pooling or POOLING_MEAN
    elif embedding.pooling:
        raise mismatch(f"{field}.pooling", f"has nothing to do: '{spec.name}' has a vector for each row")
    if not embedding.HasField("normalize"):
        embedding.normalize = True
    return TensorSpec(name=embedding.output, datatype="FP32", shape=[spec.shape[0], spec.shape[-1]])


def complete_labels(labels: LabelProcessor, outputs: Sequence[TensorSpec], known: int) -> list[TensorSpec]:
    """Fills in what follows from the model's outputs and the number of labels; the outputs that are made.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT).
    """
    fitting = [spec for spec in outputs if spec.datatype not in _NOT_NUMBERS and len(spec.shape) == 2]
    spec = _chosen("processing.labels.tensor", labels.tensor, fitting, "numeric output with two axes")
    rows, classes = spec.shape
    if classes not in (-1, known):
        raise mismatch("class_labels", f"has {known} labels, '{spec.name}' has {classes} classes")
    labels.labels, labels.scores = label_names(labels)
    labels.tensor = spec.name
    labels.activation = labels.activation or LABEL_ACTIVATION_NONE
    labels.top_k = min(labels.top_k or TOP_DEFAULT, known)
    # The model alone knows how many classes it gives where their number is free.
    shape = [rows, labels.top_k if classes != -1 else -1]
    return [
        TensorSpec(name=labels.labels, datatype="BYTES", shape=shape),
        TensorSpec(name=labels.scores, datatype="FP32", shape=shape),
    ]


def _chosen(field: str, stated: str, fitting: Sequence[TensorSpec], kind: str) -> TensorSpec:
    if stated:
        for spec in fitting:
            if spec.name == stated:
                return spec
        raise mismatch(field, f"is '{stated[:TEXT_CHARS_MAX]}', the model has no such {kind}")
    if len(fitting) != 1:
        raise mismatch(field, f"must be stated: the model has {len(fitting)} of the kind '{kind}'")
    return fitting[0]
