"""All that is done for one model before and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import ModelError, TensorError
from headrace_runner.execution.policy import SchedulingPolicy
from headrace_runner.processing.answers import AnswerMaker, EmbeddingMaker, LabelMaker, TokenCounter
from headrace_runner.processing.images import ImageReader
from headrace_runner.processing.raw_input import Made, RawReader, Row
from headrace_runner.processing.texts import TextReader
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.signature import Processed, Signature, TensorSpec

# Few bytes of raw input make many of a tensor, so what they make is bounded.
_MADE_BYTES_MAX = 256 << 20


class Processing:
    """Reads raw input for a model and makes answers of its outputs. Called from several threads at once.

    Args:
        reader: Reads the raw input; None for a model without.
        makers: Make answers.
        mask: The model's input that says where a row has tokens, for requests that bring it; empty where none does.
    """

    def __init__(self, *, reader: RawReader | None, makers: Sequence[AnswerMaker], mask: str = "") -> None:
        self._reader = reader
        self._makers = makers
        self._mask = mask
        self._made = {spec.name: maker for maker in makers for spec in maker.specs}

    @property
    def rows_max(self) -> int:
        """Rows of raw input that one execution may have; 0 means no bound."""
        return max(1, _MADE_BYTES_MAX // self._reader.row_bytes) if self._reader is not None else 0

    @property
    def raw(self) -> str:
        """Name of the raw input, empty where there is none."""
        return self._reader.raw.spec.name if self._reader is not None else ""

    def bounded(self, policy: SchedulingPolicy) -> SchedulingPolicy:
        """A policy whose executions have no more rows than may be made at once."""
        return replace(policy, batch_rows=min(policy.batch_rows, self.rows_max or policy.batch_rows))

    def extended(self, signature: Signature) -> Signature:
        """The model's signature with the raw input and the outputs that are made."""
        return Signature(
            inputs=list(signature.inputs.values()),
            outputs=list(signature.outputs.values()),
            states=signature.states,
            processed=Processed(
                raw=self._reader.raw if self._reader is not None else None,
                outputs=[spec for maker in self._makers for spec in maker.specs],
                default=self._default_of(signature),
            ),
        )

    def _default_of(self, signature: Signature) -> tuple[str, ...]:
        """Tokens are counted beside what a model is for, not in its place."""
        made = {spec.name: isinstance(maker, TokenCounter) for maker in self._makers for spec in maker.specs}
        answers = tuple(name for name, counted in made.items() if not counted)
        return (answers or tuple(signature.outputs)) + tuple(name for name, counted in made.items() if counted)

    def read(self, elements: Array) -> list[Row]:
        """Reads the raw input of one request.

        Raises:
            TensorError: What the reader raises; TENSOR_SHAPE_MISMATCH or TENSOR_BATCH_TOO_LARGE (INVALID_ARGUMENT).
        """
        assert self._reader is not None, "there is raw input"
        if not len(elements):
            raise TensorError(
                f"input '{self.raw}' has no elements",
                entry=catalogue.TENSOR_SHAPE_MISMATCH,
                context={"tensor": self.raw, "expected": "at least 1", "actual": 0},
            )
        if len(elements) > self.rows_max:
            raise TensorError(
                f"input '{self.raw}' has {len(elements)} elements, the model takes at most {self.rows_max} at once",
                entry=catalogue.TENSOR_BATCH_TOO_LARGE,
                context={"limit": self.rows_max, "actual": len(elements)},
            )
        return self._reader.read(elements.tolist())

    def join(self, rows: Sequence[Row]) -> Made:
        """The model's tensors for rows that were read, of one or several requests; at least one."""
        assert self._reader is not None, "there is raw input"
        return self._reader.join(rows)

    def mask_of(self, inputs: Mapping[str, Array]) -> Array | None:
        """Where rows have tokens, as a request's own tensors say."""
        return inputs.get(self._mask)

    def needed(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """The model's outputs that these outputs are, or are made of."""
        names: dict[str, None] = {}
        for name in outputs:
            maker = self._made.get(name)
            names.update(dict.fromkeys(maker.needs if maker is not None else (name,)))
        return tuple(names)

    def finish(self, outputs: Sequence[str], computed: Mapping[str, Array], mask: Array | None) -> list[Array]:
        """The wanted outputs in order, of the needed ones.

        Raises:
            ModelError: What the makers raise.
        """
        made: dict[str, Array] = {}
        for name in outputs:
            maker = self._made.get(name)
            if maker is not None and name not in made:
                made.update(maker.make(computed, mask))
        return [made[name] if name in made else computed[name] for name in outputs]


def processing_of(manifest: manifest_pb2.Manifest, signature: Signature, folder: Path) -> Processing:
    """What a registered manifest asks for. Reads the tokenizer: blocks, with the interpreter's lock.

    Args:
        manifest: It has processing, which is complete.
        signature: The model's own tensors.
        folder: Where the artefact's files are.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT): the model doesn't have the tensors; what `TextReader`
            raises.
    """
    policy = manifest.processing
    try:
        return _processing(policy, manifest.class_labels, signature, folder)
    except KeyError as missing:
        raise ModelError(
            f"the model has no tensor {missing}, which the manifest's processing names",
            entry=catalogue.MODEL_MANIFEST_MISMATCH,
            context={"field": "processing"},
        ) from None


def _processing(
    policy: manifest_pb2.ProcessingPolicy, class_labels: Sequence[str], signature: Signature, folder: Path
) -> Processing:
    inputs: dict[str, TensorSpec] = dict(signature.inputs)
    reader: RawReader | None = None
    if policy.HasField("image"):
        reader = ImageReader(policy=policy.image, spec=inputs[policy.image.tensor])
    elif policy.HasField("text"):
        reader = TextReader(policy=policy.text, specs=inputs, folder=folder)
    makers: list[AnswerMaker] = []
    if policy.HasField("embedding"):
        makers.append(EmbeddingMaker(policy=policy.embedding, spec=signature.outputs[policy.embedding.tensor]))
    if policy.HasField("labels"):
        spec = signature.outputs[policy.labels.tensor]
        makers.append(LabelMaker(policy=policy.labels, spec=spec, class_labels=class_labels))
    if policy.HasField("text"):
        makers.append(
            TokenCounter(name=policy.text.tokens, ids=inputs[policy.text.ids], beside=next(iter(signature.outputs)))
        )
    return Processing(reader=reader, makers=makers, mask=policy.text.attention_mask)
