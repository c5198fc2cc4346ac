"""How a model's process is set up: from the manifest and from what the file says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import DeviceError, ModelError
from headrace_common.gguf import POOLING_RANK, GgufHeader

CONTEXT_DEFAULT = 4096
SLOTS_DEFAULT = 8
SLOTS_MAX = 256
PROMPT_BATCH_DEFAULT = 64
_BATCH_BOUNDS = (16, 4096)
# A core that any server has does some ten times as many.
_OPERATIONS_PER_S = 5e9
_BATCH_BASE_S = 10.0
# Beside the weights and the cache: the program itself, and what it computes with.
_BASE_BYTES = 64 << 20
# The same, as much as it could ever be. A chat template may be made to use up all memory, and is run at the load.
_BASE_BYTES_MAX = 4 << 30
_SLOT_BYTES_MAX = 16 << 20
_POOLINGS = {
    manifest_pb2.POOLING_MEAN: "mean",
    manifest_pb2.POOLING_CLS: "cls",
    manifest_pb2.POOLING_LAST: "last",
}
_FILE_POOLINGS = {1: "mean", 2: "cls", 3: "last"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """What a model's process is started with.

    Attributes:
        name: For the log.
        slots: Sequences at the same time.
        context_length: Tokens of each of them.
        batch: Tokens of a prompt that are computed at once.
        pooling: How vectors are made: `mean`, `cls`, `last` or `rank`; empty for a model that generates.
        chat_template: In place of the file's own; empty means that one.
        data_bytes_max: Memory that the process may have beside the mapped file; 0 means any amount.
        batch_max_s: Processor time that one batch takes at most, whatever else the process does meanwhile.
    """

    path: Path
    name: str
    slots: int
    context_length: int
    batch: int
    threads: int
    pooling: str = ""
    chat_template: str = ""
    data_bytes_max: int = 0
    batch_max_s: float = _BATCH_BASE_S


def settings_of(path: Path, manifest: manifest_pb2.Manifest, header: GgufHeader, threads: int) -> ProcessSettings:
    """What a manifest asks for, checked against the file.

    Raises:
        ModelError: MODEL_LOAD_FAILED (FAILED_PRECONDITION): the file can't do what the manifest says.
    """
    policy = manifest.language
    context = policy.context_length or min(header.context_length, CONTEXT_DEFAULT)
    if context > header.context_length:
        raise _unfit(
            f"language.context_length is {context}, the model was trained for at most {header.context_length} tokens"
        )
    if not header.vocabulary_size:
        raise _unfit("the file has no vocabulary")
    name = header.name or path.stem
    if manifest.task in (manifest_pb2.MODEL_TASK_EMBED, manifest_pb2.MODEL_TASK_RERANK):
        # With several sequences llama.cpp computes wrong vectors, and an input must fit into one batch.
        return ProcessSettings(
            path=path,
            name=name,
            slots=1,
            context_length=context,
            batch=context,
            batch_max_s=_batch_max_s(header, context),
            threads=threads,
            pooling=_pooling(manifest, header),
        )
    slots = policy.slots or SLOTS_DEFAULT
    if slots > SLOTS_MAX:
        raise _unfit(f"language.slots is {slots}, at most {SLOTS_MAX} are possible")
    prompt_batch = policy.prompt_batch or PROMPT_BATCH_DEFAULT
    if not _BATCH_BOUNDS[0] <= prompt_batch <= _BATCH_BOUNDS[1]:
        raise _unfit(
            f"language.prompt_batch is {prompt_batch}, it must be from {_BATCH_BOUNDS[0]} to {_BATCH_BOUNDS[1]}"
        )
    # Prompts get on as fast where all other slots take their token of each batch.
    batch = prompt_batch + slots
    return ProcessSettings(
        path=path,
        name=name,
        slots=slots,
        context_length=context,
        batch=batch,
        batch_max_s=_batch_max_s(header, batch),
        threads=threads,
        chat_template=policy.chat_template,
    )


def data_bytes_max(settings: ProcessSettings, header: GgufHeader, *, file_bytes: int) -> int:
    """What no sound model's process exceeds, its weights in another form included."""
    cache_bytes = _cache_bytes(settings, header)
    return file_bytes + cache_bytes + cache_bytes // 4 + settings.slots * _SLOT_BYTES_MAX + _BASE_BYTES_MAX


def memory_needed(settings: ProcessSettings, header: GgufHeader, *, file_bytes: int) -> int:
    """Memory that the process takes, about: its weights, the cache of all sequences, and what it computes with."""
    return file_bytes + _cache_bytes(settings, header) + _BASE_BYTES


def require_memory(
    settings: ProcessSettings, header: GgufHeader, *, file_bytes: int, available_bytes: int | None
) -> None:
    """Refuses what can't fit; llama.cpp would take all there is first.

    Raises:
        DeviceError: DEVICE_OUT_OF_MEMORY (RESOURCE_EXHAUSTED).
    """
    if available_bytes is None:
        return
    needed, cache_bytes = memory_needed(settings, header, file_bytes=file_bytes), _cache_bytes(settings, header)
    if needed > available_bytes:
        raise DeviceError(
            f"the model needs about {_mib(needed)} MiB, {_mib(cache_bytes)} of them for {settings.slots} sequences of"
            f" {settings.context_length} tokens, and {_mib(max(0, available_bytes))} MiB are free; a smaller"
            " language.context_length or language.slots takes less",
            entry=catalogue.DEVICE_OUT_OF_MEMORY,
            context={"device": "cpu"},
        )


def _cache_bytes(settings: ProcessSettings, header: GgufHeader) -> int:
    return header.kv_bytes_per_token() * settings.context_length * settings.slots


def _batch_max_s(header: GgufHeader, batch: int) -> float:
    return _BATCH_BASE_S + 2 * header.parameters * batch / _OPERATIONS_PER_S


def _pooling(manifest: manifest_pb2.Manifest, header: GgufHeader) -> str:
    if manifest.task == manifest_pb2.MODEL_TASK_RERANK:
        if header.pooling_type != POOLING_RANK:
            # llama.cpp would answer, with numbers that mean nothing.
            raise _unfit("the model was not trained to rank: its file names no pooling of the type rank")
        return "rank"
    if header.pooling_type == POOLING_RANK:
        raise _unfit("the model ranks documents, it makes no vectors")
    return _POOLINGS.get(manifest.language.pooling) or _FILE_POOLINGS.get(header.pooling_type or 0, "mean")


def _mib(amount: int) -> int:
    return amount >> 20


def _unfit(message: str) -> ModelError:
    return ModelError(message, entry=catalogue.MODEL_LOAD_FAILED)
