"""The manifest of a version: what its file says, overridden field by field by what its uploader states. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from headrace.registry.v1.manifest_pb2 import (
    ARTIFACT_FORMAT_UNSPECIFIED,
    ArtifactFormat,
    Manifest,
    TensorSpec,
)
from headrace_common.errors import ValidationError
from headrace_common.gguf import GgufHeader
from headrace_registry.artifact_format import DEFAULT_BACKENDS, unsupported
from headrace_registry.execution_rules import check_execution, check_warm_up
from headrace_registry.field_rules import DESCRIPTION_CHARS_MAX, TEXT_CHARS_MAX, check_pairs, check_text
from headrace_registry.inspection import Signature
from headrace_registry.language_rules import check_language, completed
from headrace_registry.manifest_faults import ROOT, broken_text, mismatch, wrong
from headrace_registry.placement_rules import check_placement, check_routing
from headrace_registry.processing_rules import check_processing, complete_processing, made_inputs, made_outputs
from headrace_registry.sequence_rules import check_sequence, check_states
from headrace_registry.tensor_rules import DATATYPES

MANIFEST_BYTES_MAX = 1 << 20
"""Every gateway keeps every manifest in memory."""
CLASS_LABELS_MAX = 65_536
DEVICE_TYPES = ("cpu", "cuda", "tpu", "npu")

_BACKEND = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def check_stated(stated: Manifest) -> None:
    """Refuses what can't be right whatever the file says; needs no byte of the upload.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID or MODEL_FORMAT_UNSUPPORTED (INVALID_ARGUMENT); names the field.
    """
    if stated.ByteSize() > MANIFEST_BYTES_MAX:
        raise wrong("", f"has {stated.ByteSize()} bytes, at most {MANIFEST_BYTES_MAX} are allowed")
    if stated.format != ARTIFACT_FORMAT_UNSPECIFIED and stated.format not in DEFAULT_BACKENDS:
        raise unsupported(str(stated.format), f"{ROOT}.format {stated.format} is not served", field=f"{ROOT}.format")
    if stated.backend and not _BACKEND.fullmatch(stated.backend):
        raise wrong("backend", "must be a lower-case letter, then up to 63 lower-case letters, digits, '_' or '-'")
    for kind, tensors in (("inputs", stated.inputs), ("outputs", stated.outputs)):
        _check_tensors(kind, tensors)
    check_execution(stated.execution)
    check_language(stated)
    if stated.HasField("batched") and not stated.batched and stated.execution.HasField("batching"):
        raise wrong("execution.batching", "needs a model that is batched, and `batched` is false")
    if stated.HasField("sequence"):
        check_sequence(stated.sequence)
    check_processing(stated)
    check_placement(stated.placement)
    check_routing(stated.routing)
    _check_devices(stated.device_types)
    _check_texts(stated)


def merged(
    *,
    stated: Manifest,
    artifact_format: ArtifactFormat.ValueType,
    inferred: Signature | GgufHeader,
    files: Iterable[str] = (),
) -> Manifest:
    """The manifest of the version.

    Rules: tensors are those of the file, in its order. A stated tensor is matched by name and may narrow free axes; an
    empty shape or datatype counts as not stated, so does a false `optional`. `batched` follows the narrowed shapes
    unless it is stated. Everything else is taken as stated, the backend being the format's default. The tensors of a
    language model are those of its task; its task and policy are filled in. The tensors of processing come first; those
    that are stated count for nothing.

    Args:
        stated: Has passed `check_stated`.
        artifact_format: What the content is.
        inferred: What the model's file says.
        files: Names of the other files.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT): the statement contradicts the file, and names the
            field; MODEL_MANIFEST_INVALID: with the file's tensors the manifest is too large.
    """
    if stated.format not in (ARTIFACT_FORMAT_UNSPECIFIED, artifact_format):
        raise mismatch("format", f"is {ArtifactFormat.Name(stated.format)}, the file is not")
    manifest = Manifest()
    manifest.CopyFrom(stated)
    manifest.format = artifact_format
    manifest.backend = stated.backend or DEFAULT_BACKENDS[artifact_format]
    del manifest.inputs[:]
    del manifest.outputs[:]
    signature = completed(manifest, inferred) if isinstance(inferred, GgufHeader) else _tensors(manifest, inferred)
    raw, made = made_inputs(stated.processing), made_outputs(stated.processing)
    manifest.inputs.extend(_merged_tensors("inputs", stated.inputs, signature.inputs, raw))
    manifest.outputs.extend(_merged_tensors("outputs", stated.outputs, signature.outputs, made))
    fixed = _tensor_without_rows([*manifest.inputs, *manifest.outputs])
    if stated.HasField("batched") and stated.batched and fixed is not None:
        raise mismatch("batched", f"is true, but the first axis of '{fixed}' is not free")
    manifest.batched = stated.batched if stated.HasField("batched") else fixed is None
    if manifest.execution.HasField("batching") and not manifest.batched:
        raise mismatch("execution.batching", f"needs a free first axis of every tensor, '{fixed}' has none")
    check_warm_up(manifest.execution.warm_up, manifest.inputs)
    check_states(manifest.sequence.states, inputs=manifest.inputs, outputs=manifest.outputs)
    if isinstance(inferred, Signature):
        complete_processing(manifest, files)
    if manifest.ByteSize() > MANIFEST_BYTES_MAX:
        raise wrong("", f"has {manifest.ByteSize()} bytes with the tensors of the file, at most {MANIFEST_BYTES_MAX}")
    return manifest


def _tensors(manifest: Manifest, inferred: Signature) -> Signature:
    """What the file of a model of tensors says, which is no language model."""
    if manifest.HasField("language"):
        raise mismatch("language", "is only for language models, and the file is no GGUF")
    return inferred


def _merged_tensors(
    kind: str, stated: Sequence[TensorSpec], inferred: Sequence[TensorSpec], foreign: frozenset[str]
) -> Iterable[TensorSpec]:
    """The file's tensors, narrowed as stated; `foreign` ones are stated in copies of registered manifests."""
    known = {tensor.name for tensor in inferred}
    places = {
        tensor.name: index for index, tensor in enumerate(stated) if tensor.name in known or tensor.name not in foreign
    }
    for name, index in places.items():
        if name not in known:
            raise mismatch(f"{kind}[{index}].name", f"is '{name}', the model has no such tensor among its {kind}")
    for own in inferred:
        index = places.get(own.name)
        yield own if index is None else _merged_tensor(f"{kind}[{index}]", stated[index], own)


def _merged_tensor(field: str, stated: TensorSpec, own: TensorSpec) -> TensorSpec:
    if stated.datatype and stated.datatype != own.datatype:
        raise mismatch(f"{field}.datatype", f"is {stated.datatype}, the model's '{own.name}' has {own.datatype}")
    if stated.optional and not own.optional:
        raise mismatch(f"{field}.optional", f"is true, the model needs '{own.name}'")
    tensor = TensorSpec(name=own.name, datatype=own.datatype, optional=own.optional, shape=own.shape)
    if stated.shape:
        shapes = f"is {list(stated.shape)}, the model's '{own.name}' has {list(own.shape)}"
        if len(stated.shape) != len(own.shape):
            raise mismatch(f"{field}.shape", shapes)
        for axis, (size, own_size) in enumerate(zip(stated.shape, own.shape, strict=True)):
            if own_size not in (-1, size):
                raise mismatch(f"{field}.shape[{axis}]", shapes)
        tensor.shape[:] = stated.shape
    return tensor


def _tensor_without_rows(tensors: Iterable[TensorSpec]) -> str | None:
    """The first tensor whose first axis does not count rows freely."""
    return next((tensor.name for tensor in tensors if not tensor.shape or tensor.shape[0] != -1), None)


def _check_tensors(kind: str, tensors: Sequence[TensorSpec]) -> None:
    names: set[str] = set()
    for index, tensor in enumerate(tensors):
        field = f"{kind}[{index}]"
        if not tensor.name:
            raise wrong(f"{field}.name", "is required")
        if tensor.name in names:
            raise wrong(f"{field}.name", f"repeats '{tensor.name[:TEXT_CHARS_MAX]}'")
        names.add(tensor.name)
        if tensor.datatype and tensor.datatype not in DATATYPES:
            raise wrong(f"{field}.datatype", f"must be one of {', '.join(sorted(DATATYPES))}")
        for axis, size in enumerate(tensor.shape):
            if size < 1 and size != -1:
                raise wrong(f"{field}.shape[{axis}]", "must be at least 1, or -1 for a free axis")


def _check_devices(device_types: Sequence[str]) -> None:
    for index, device_type in enumerate(device_types):
        if device_type not in DEVICE_TYPES:
            raise wrong(f"device_types[{index}]", f"must be one of {', '.join(DEVICE_TYPES)}")
        if device_type in device_types[:index]:
            raise wrong(f"device_types[{index}]", f"repeats {device_type}")


def _check_texts(stated: Manifest) -> None:
    if len(stated.class_labels) > CLASS_LABELS_MAX:
        raise wrong("class_labels", f"has {len(stated.class_labels)} labels, at most {CLASS_LABELS_MAX} are allowed")
    try:
        for index, label in enumerate(stated.class_labels):
            check_text(label, field=f"{ROOT}.class_labels[{index}]")
        check_pairs(stated.metadata, field=f"{ROOT}.metadata")
        check_text(stated.description, field=f"{ROOT}.description", chars_max=DESCRIPTION_CHARS_MAX)
    except ValidationError as error:
        raise broken_text(error) from None
