"""Makes the signature that requests must fit, from the manifest and the loaded model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import ModelError
from headrace_runner.backends.contract import LoadedModel, TakesInstead
from headrace_runner.execution.generation.triton_request import SIGNATURE as GENERATION
from headrace_runner.tensors.datatypes import DATATYPES
from headrace_runner.tensors.signature import Processed, Signature, TensorSpec


def signature_of(manifest: manifest_pb2.Manifest, model: LoadedModel) -> Signature:
    """The manifest's signature where it states one, else the artefact's own; without the tensors of its processing.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT): the manifest names tensors that the artefact doesn't
            have, leaves out an input that it requires, or states another datatype or number of axes.
    """
    processing = manifest.processing
    raw = {processing.image.input, processing.text.input}
    made = {processing.embedding.output, processing.labels.labels, processing.labels.scores, processing.text.tokens}
    inputs = [_spec(spec) for spec in manifest.inputs if spec.name not in raw] or list(model.inputs)
    outputs = [_spec(spec) for spec in manifest.outputs if spec.name not in made] or list(model.outputs)
    _compare("inputs", inputs, model.inputs)
    _compare("outputs", outputs, model.outputs)
    stated = {spec.name for spec in inputs}
    for spec in model.inputs:
        if not spec.optional and spec.name not in stated:
            raise _mismatch("inputs", f"the model requires the input '{spec.name}', which the manifest leaves out")
    states = {state.input: state.output for state in manifest.sequence.states}
    named = {spec.name for spec in outputs}
    for taken, given in states.items():
        if taken not in stated or given not in named:
            raise _mismatch("sequence", f"the model has no state from '{given}' to '{taken}'")
    processed = None
    if isinstance(model, TakesInstead):
        processed = Processed(raw=model.instead, outputs=(), default=tuple(spec.name for spec in outputs))
    return Signature(inputs=inputs, outputs=outputs, states=states, processed=processed)


def check_generation(manifest: manifest_pb2.Manifest) -> None:
    """Checks the tensor names that a manifest states for a model that generates.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT): the manifest names others than such models have, or
            doesn't say that the model generates: gateways take parts of answers only where it does.
    """
    if manifest.task != manifest_pb2.MODEL_TASK_GENERATE:
        raise _mismatch("task", "the model generates text, and the manifest doesn't say so")
    for field, stated, own in (
        ("inputs", manifest.inputs, GENERATION.inputs),
        ("outputs", manifest.outputs, GENERATION.outputs),
    ):
        for spec in stated:
            if spec.name not in own:
                raise _mismatch(field, f"the model has no '{spec.name}' among its {field}")


def _spec(spec: manifest_pb2.TensorSpec) -> TensorSpec:
    if spec.datatype not in DATATYPES:
        raise _mismatch("inputs", f"the manifest gives '{spec.name}' the datatype '{spec.datatype}'")
    return TensorSpec(spec.name, spec.datatype, tuple(spec.shape), spec.optional)


def _compare(field: str, stated: Iterable[TensorSpec], own: Sequence[TensorSpec]) -> None:
    by_name = {spec.name: spec for spec in own}
    for spec in stated:
        actual = by_name.get(spec.name)
        if actual is None:
            raise _mismatch(field, f"the model has no '{spec.name}' among its {field}")
        if actual.datatype != spec.datatype or len(actual.shape) != len(spec.shape):
            raise _mismatch(
                field,
                f"'{spec.name}' is {spec.datatype} {list(spec.shape)} in the manifest and "
                f"{actual.datatype} {list(actual.shape)} in the model",
            )


def _mismatch(field: str, message: str) -> ModelError:
    return ModelError(message, entry=catalogue.MODEL_MANIFEST_MISMATCH, context={"field": field})
