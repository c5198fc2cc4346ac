"""What a manifest may say of a language model, and what is filled in for it. Pure."""

from __future__ import annotations

from types import MappingProxyType

from headrace.registry.v1.manifest_pb2 import (
    ARTIFACT_FORMAT_GGUF,
    ARTIFACT_FORMAT_UNSPECIFIED,
    MODEL_TASK_EMBED,
    MODEL_TASK_GENERATE,
    MODEL_TASK_INFER,
    MODEL_TASK_RERANK,
    MODEL_TASK_UNSPECIFIED,
    POOLING_CLS,
    POOLING_LAST,
    POOLING_MEAN,
    POOLING_UNSPECIFIED,
    LanguagePolicy,
    Manifest,
    ModelTask,
    Pooling,
    TensorSpec,
)
from headrace_common.gguf import POOLING_RANK, GgufHeader
from headrace_registry.field_rules import PAIRS_MAX, TEXT_CHARS_MAX
from headrace_registry.inspection import Signature
from headrace_registry.manifest_faults import mismatch, wrong

CONTEXT_MIN = 32
CONTEXT_MAX = 1 << 20
CONTEXT_DEFAULT = 4_096
SLOTS_MAX = 256
SLOTS_DEFAULT = 8
PROMPT_BATCH_MIN = 16
PROMPT_BATCH_MAX = 4_096
PROMPT_BATCH_DEFAULT = 64
TEMPLATE_BYTES_MAX = 65_536

_POOLINGS = MappingProxyType({1: POOLING_MEAN, 2: POOLING_CLS, 3: POOLING_LAST})
# Models that see a whole text at once: they make vectors, and can't go on with a text.
_ENCODERS = ("bert", "t5encoder", "gemma-embedding", "llama-embed")


def check_language(stated: Manifest) -> None:
    """Refuses what can't be right whatever the file says.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT); names the field and its limit.
    """
    if stated.task not in ModelTask.values():
        raise wrong("task", f"is {stated.task}, it must be one of {', '.join(ModelTask.keys())}")
    if stated.format not in (ARTIFACT_FORMAT_UNSPECIFIED, ARTIFACT_FORMAT_GGUF):
        if stated.HasField("language"):
            raise wrong("language", "is only for language models, and `format` is another than GGUF")
        others = (MODEL_TASK_UNSPECIFIED, MODEL_TASK_INFER)
        # A model with a tokenizer may embed; whether this one does is found out with its tensors.
        if stated.task not in (*others, MODEL_TASK_EMBED) or (
            stated.task == MODEL_TASK_EMBED and not stated.HasField("processing")
        ):
            raise wrong("task", f"is {ModelTask.Name(stated.task)}, which needs the format GGUF")
    elif stated.format == ARTIFACT_FORMAT_GGUF and stated.task == MODEL_TASK_INFER:
        raise wrong("task", "is MODEL_TASK_INFER, a GGUF generates, embeds or ranks")
    if stated.HasField("language"):
        _check_policy(stated.language)


def completed(manifest: Manifest, header: GgufHeader) -> Signature:
    """Fills in the task, the policy and the metadata of a GGUF's manifest, which has passed `check_language`.

    Returns:
        The tensors that a model of the task has.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT): the model can't do that; MODEL_MANIFEST_INVALID: the
            fields contradict each other or mean nothing for the task.
    """
    manifest.task = _task(manifest.task, header)
    _check_execution(manifest)
    if manifest.HasField("processing"):
        raise wrong("processing", "has no meaning for a language model, which has a tokenizer of its own")
    _resolve(manifest.language, manifest.task, header)
    _describe(manifest, header)
    return _signature(manifest.task, header)


def _check_policy(policy: LanguagePolicy) -> None:
    _between("context_length", policy.context_length, CONTEXT_MIN, CONTEXT_MAX)
    _between("slots", policy.slots, 1, SLOTS_MAX)
    _between("prompt_batch", policy.prompt_batch, PROMPT_BATCH_MIN, PROMPT_BATCH_MAX)
    if 0 < policy.prompt_batch < policy.slots:
        raise wrong("language.prompt_batch", f"is {policy.prompt_batch}, it must be at least `slots`, {policy.slots}")
    if policy.pooling not in Pooling.values():
        raise wrong("language.pooling", f"is {policy.pooling}, it must be one of {', '.join(Pooling.keys())}")
    size = len(policy.chat_template.encode())
    if size > TEMPLATE_BYTES_MAX:
        raise wrong("language.chat_template", f"has {size} bytes, at most {TEMPLATE_BYTES_MAX} are allowed")
    if "\0" in policy.chat_template:
        raise wrong("language.chat_template", "must not hold the character U+0000")


def _between(name: str, value: int, least: int, most: int) -> None:
    if value and not least <= value <= most:
        raise wrong(f"language.{name}", f"is {value}, it must be {least} to {most}, or 0 for the default")


def _task(stated: ModelTask.ValueType, header: GgufHeader) -> ModelTask.ValueType:
    ranks = header.pooling_type == POOLING_RANK
    encodes = not header.causal_attention or any(part in header.architecture for part in _ENCODERS)
    if stated == MODEL_TASK_UNSPECIFIED:
        if ranks:
            return MODEL_TASK_RERANK
        return MODEL_TASK_EMBED if encodes or header.pooling_type in _POOLINGS else MODEL_TASK_GENERATE
    if stated == MODEL_TASK_INFER:
        raise mismatch("task", "is MODEL_TASK_INFER, the file is a GGUF, which generates, embeds or ranks")
    if stated == MODEL_TASK_RERANK and not ranks:
        raise mismatch("task", "is MODEL_TASK_RERANK, the model has nothing that ranks (no `pooling_type` 4)")
    if stated != MODEL_TASK_RERANK and ranks:
        raise mismatch("task", f"is {ModelTask.Name(stated)}, the model only ranks documents")
    if stated == MODEL_TASK_GENERATE and encodes:
        raise mismatch("task", f"is MODEL_TASK_GENERATE, '{header.architecture[:64]}' models make vectors")
    return stated


def _check_execution(manifest: Manifest) -> None:
    """Refuses what is for models of tensors."""
    execution = manifest.execution
    if manifest.HasField("sequence"):
        raise wrong("sequence", "has no meaning for a language model, which keeps no state between requests")
    if execution.instances > 1:
        instead = "`language.slots`" if manifest.task == MODEL_TASK_GENERATE else "`execution.replicas`"
        raise wrong("execution.instances", f"is {execution.instances}, a language model has one; set {instead} instead")
    if manifest.task == MODEL_TASK_GENERATE:
        if execution.HasField("batching"):
            raise wrong("execution.batching", "has no meaning for a model that generates; set `language.slots` instead")
        if execution.warm_up:
            raise wrong("execution.warm_up", "has no meaning for a model that generates, which warms up by itself")


def _resolve(policy: LanguagePolicy, task: ModelTask.ValueType, header: GgufHeader) -> None:
    if policy.context_length > header.context_length:
        raise mismatch(
            "language.context_length",
            f"is {policy.context_length}, the model was trained for {header.context_length}",
        )
    policy.context_length = policy.context_length or min(header.context_length, CONTEXT_DEFAULT)
    if task == MODEL_TASK_GENERATE:
        if policy.pooling:
            raise wrong("language.pooling", "has no meaning for a model that generates")
        policy.slots = policy.slots or SLOTS_DEFAULT
        policy.prompt_batch = policy.prompt_batch or max(PROMPT_BATCH_DEFAULT, policy.slots)
        return
    if policy.slots > 1:
        raise wrong("language.slots", f"is {policy.slots}, a model that does not generate has one")
    for name, value in (("prompt_batch", policy.prompt_batch), ("chat_template", policy.chat_template)):
        if value:
            raise wrong(f"language.{name}", "is only for models that generate")
    policy.slots = 1
    if task == MODEL_TASK_EMBED:
        policy.pooling = policy.pooling or _POOLINGS.get(header.pooling_type or 0, POOLING_MEAN)
    elif policy.pooling != POOLING_UNSPECIFIED:
        raise wrong("language.pooling", "is only for models that make vectors")


def _describe(manifest: Manifest, header: GgufHeader) -> None:
    """Adds what people want to know, where nothing of that name is stated and there is room."""
    known = {
        "architecture": header.architecture,
        "model_name": header.name,
        "parameters": str(header.parameters or ""),
        "quantisation": header.quantisation,
        "trained_context_length": str(header.context_length),
    }
    for name, value in known.items():
        shown = "".join(letter for letter in value if letter.isprintable())[:TEXT_CHARS_MAX]
        if shown and name not in manifest.metadata and len(manifest.metadata) < PAIRS_MAX:
            manifest.metadata[name] = shown


def _signature(task: ModelTask.ValueType, header: GgufHeader) -> Signature:
    if task == MODEL_TASK_GENERATE:
        return Signature(
            inputs=[
                TensorSpec(name="text_input", datatype="BYTES", shape=[1]),
                TensorSpec(name="stream", datatype="BOOL", shape=[1], optional=True),
                TensorSpec(name="sampling_parameters", datatype="BYTES", shape=[1], optional=True),
                TensorSpec(name="exclude_input_in_output", datatype="BOOL", shape=[1], optional=True),
            ],
            outputs=[TensorSpec(name="text_output", datatype="BYTES", shape=[-1])],
        )
    if task == MODEL_TASK_EMBED:
        return Signature(
            inputs=[TensorSpec(name="text", datatype="BYTES", shape=[-1])],
            outputs=[
                TensorSpec(name="embedding", datatype="FP32", shape=[-1, header.embedding_length]),
                TensorSpec(name="tokens", datatype="INT32", shape=[-1]),
            ],
        )
    return Signature(
        inputs=[
            TensorSpec(name="query", datatype="BYTES", shape=[1]),
            TensorSpec(name="documents", datatype="BYTES", shape=[-1]),
        ],
        outputs=[TensorSpec(name="score", datatype="FP32", shape=[-1])],
    )
