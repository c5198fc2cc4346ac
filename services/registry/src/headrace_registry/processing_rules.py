"""What a manifest may say of processing, and what is filled in: raw inputs, and outputs that are made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.registry.v1.manifest_pb2 import (
    MODEL_TASK_EMBED,
    MODEL_TASK_INFER,
    MODEL_TASK_UNSPECIFIED,
    Manifest,
    ModelTask,
    ProcessingPolicy,
    TensorSpec,
)
from headrace_registry.answer_rules import (
    EMBEDDING,
    check_embedding,
    check_labels,
    complete_embedding,
    complete_labels,
    embedding_name,
    label_names,
)
from headrace_registry.field_rules import TEXT_CHARS_MAX
from headrace_registry.image_rules import IMAGE, check_image, complete_image
from headrace_registry.manifest_faults import mismatch, wrong
from headrace_registry.text_rules import TEXT, check_text_processor, complete_text, tokens_name


def check_processing(stated: Manifest) -> None:
    """Refuses what can't be right whatever the model's tensors are.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT); names the field and its limit.
    """
    if not stated.HasField("processing"):
        return
    processing = stated.processing
    if stated.HasField("sequence"):
        raise wrong("processing", "can't be beside `sequence`: raw input has no state")
    if not any(processing.HasField(name) for name in ("image", "text", "embedding", "labels")):
        raise wrong("processing", "must have one of `image`, `text`, `embedding` and `labels`")
    if processing.HasField("image"):
        check_image(processing.image)
    if processing.HasField("text"):
        check_text_processor(processing.text)
    if processing.HasField("embedding"):
        check_embedding(processing.embedding)
    if processing.HasField("labels"):
        check_labels(processing.labels, stated.class_labels)


def made_inputs(processing: ProcessingPolicy) -> frozenset[str]:
    """Names of the inputs that are processing's and not the model's."""
    if processing.HasField("image"):
        return frozenset({processing.image.input or IMAGE})
    return frozenset({processing.text.input or TEXT}) if processing.HasField("text") else frozenset()


def made_outputs(processing: ProcessingPolicy) -> frozenset[str]:
    """Names of the outputs that are processing's and not the model's."""
    names: set[str] = set()
    if processing.HasField("embedding"):
        names.add(embedding_name(processing.embedding))
    if processing.HasField("labels"):
        names.update(label_names(processing.labels))
    if processing.HasField("text"):
        names.add(tokens_name(processing.text))
    return frozenset(names)


def embeds(processing: ProcessingPolicy) -> bool:
    """Whether it makes `embedding` of `text`, as callers of the task expect it."""
    return (
        processing.HasField("text")
        and processing.HasField("embedding")
        and (processing.text.input or TEXT) == TEXT
        and embedding_name(processing.embedding) == EMBEDDING
    )


def complete_processing(manifest: Manifest, files: Iterable[str]) -> None:
    """Fills in what is absent, sets the task, and puts the tensors of processing before those of the model.

    Args:
        manifest: Has passed `check_processing`; its tensors are those of the model.
        files: Names of the artefact's other files.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT): the model's tensors or files don't allow it.
    """
    if manifest.task not in (MODEL_TASK_UNSPECIFIED, MODEL_TASK_INFER) and not (
        manifest.task == MODEL_TASK_EMBED and embeds(manifest.processing)
    ):
        raise mismatch(
            "task",
            f"is {ModelTask.Name(manifest.task)}, which needs a GGUF"
            + (" or `processing` from text to embedding" if manifest.task == MODEL_TASK_EMBED else "")
            + ", and the file is none",
        )
    if manifest.task == MODEL_TASK_UNSPECIFIED:
        manifest.task = MODEL_TASK_EMBED if embeds(manifest.processing) else MODEL_TASK_INFER
    if not manifest.HasField("processing"):
        return
    processing = manifest.processing
    inputs, outputs = list(manifest.inputs), list(manifest.outputs)
    raw: list[TensorSpec] = []
    counted: list[TensorSpec] = []
    if processing.HasField("image"):
        raw.append(complete_image(processing.image, inputs))
    if processing.HasField("text"):
        text, tokens = complete_text(processing.text, inputs, frozenset(files))
        raw.append(text)
        counted.append(tokens)
    made: list[TensorSpec] = []
    if processing.HasField("embedding"):
        made.append(complete_embedding(processing.embedding, outputs))
    if processing.HasField("labels"):
        made += complete_labels(processing.labels, outputs, len(manifest.class_labels))
    made += counted
    _check_names("inputs", raw, inputs)
    _check_names("outputs", made, outputs)
    del manifest.inputs[:]
    del manifest.outputs[:]
    manifest.inputs.extend([*raw, *inputs])
    manifest.outputs.extend([*made, *outputs])


def _check_names(kind: str, made: Sequence[TensorSpec], own: Sequence[TensorSpec]) -> None:
    """Refuses names that are taken."""
    names = [spec.name for spec in own]
    for spec in made:
        if spec.name in names:
            raise mismatch(
                "processing",
                f"names one of its {kind} '{spec.name[:TEXT_CHARS_MAX]}', which is taken; give it another name",
            )
        names.append(spec.name)
