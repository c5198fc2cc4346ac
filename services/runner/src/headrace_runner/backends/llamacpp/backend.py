"""GGUF models by llama.cpp, on the processor."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from headrace.registry.v1 import manifest_pb2
from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common import catalogue
from headrace_common.clock import SystemClock
from headrace_common.errors import ModelError
from headrace_common.gguf import GgufHeader, GgufInvalid, read_header
from headrace_runner.backends.contract import Availability, Capabilities, LoadedModel
from headrace_runner.backends.generation import GenerativeModel
from headrace_runner.backends.llamacpp.memory import available_bytes
from headrace_runner.backends.llamacpp.private_folder import sweep
from headrace_runner.backends.llamacpp.process import ModelProcess
from headrace_runner.backends.llamacpp.settings import (
    ProcessSettings,
    data_bytes_max,
    memory_needed,
    require_memory,
    settings_of,
)

_PACKAGES = ("xllamacpp", "aiohttp", "llguidance")
_INSTALL = "install headrace-runner[llamacpp]"
_CPUINFO = Path("/proc/cpuinfo")


class LlamaCppBackend:
    """Loads `.gguf` files. Each model has a process of its own, so that nothing it does harms the runner."""

    def __init__(self) -> None:
        self._swept = False
        self._loading: dict[Path, ModelProcess] = {}

    def available(self) -> Availability:
        reason = _missing()
        return Availability((), reason) if reason else Availability(("cpu",), version=_version())

    def capabilities(self) -> Capabilities:
        return Capabilities(
            streaming=True, quantization=("int2", "int3", "int4", "int5", "int6", "int8"), interruption=True
        )

    def memory_needed(self, artifact_dir: Path, files: Sequence[str], manifest: Manifest) -> int:
        path, header = _opened(artifact_dir, files)
        return memory_needed(settings_of(path, manifest, header, 1), header, file_bytes=path.stat().st_size)

    def load_progress(self, artifact_dir: Path) -> float:
        process = self._loading.get(artifact_dir)
        return 0.0 if process is None else process.load_ratio

    def load(
        self, artifact_dir: Path, files: Sequence[str], manifest: Manifest, device_type: str, threads: int
    ) -> LoadedModel | GenerativeModel:
        if not self._swept:
            self._swept = True
            sweep()
        path, header = _opened(artifact_dir, files)
        settings = settings_of(path, manifest, header, threads)
        file_bytes = path.stat().st_size
        require_memory(settings, header, file_bytes=file_bytes, available_bytes=available_bytes())
        settings = replace(settings, data_bytes_max=data_bytes_max(settings, header, file_bytes=file_bytes))
        process = ModelProcess(settings=settings, clock=SystemClock())
        self._loading[artifact_dir] = process
        try:
            process.start()
        finally:
            del self._loading[artifact_dir]
        return _model(process, settings, header, manifest.task)


def _model(
    process: ModelProcess, settings: ProcessSettings, header: GgufHeader, task: int
) -> LoadedModel | GenerativeModel:
    # Imported late: it takes long, and is not there without the extra.
    from headrace_runner.backends.llamacpp.embedding import EmbeddingModel
    from headrace_runner.backends.llamacpp.model import LlamaCppModel
    from headrace_runner.backends.llamacpp.reranking import RerankModel

    vocabulary, context = header.vocabulary_size, settings.context_length
    if task == manifest_pb2.MODEL_TASK_EMBED:
        return EmbeddingModel(
            process=process,
            context_length=context,
            vocabulary_size=vocabulary,
            embedding_length=header.embedding_length,
        )
    if task == manifest_pb2.MODEL_TASK_RERANK:
        return RerankModel(process=process, context_length=context, vocabulary_size=vocabulary)
    return LlamaCppModel(
        process=process,
        slots=settings.slots,
        context_length=context,
        vocabulary_size=vocabulary,
        has_template=bool(settings.chat_template or header.chat_template),
    )


def _opened(artifact_dir: Path, files: Sequence[str]) -> tuple[Path, GgufHeader]:
    path = artifact_dir / _model_file(files)
    try:
        return path, read_header(path)
    except GgufInvalid as error:
        raise ModelError(f"the file {error}", entry=catalogue.MODEL_LOAD_FAILED) from None


def _model_file(files: Sequence[str]) -> str:
    """The only `.gguf` file, or the only file."""
    models = [path for path in files if PurePosixPath(path).suffix == ".gguf"] or list(files)
    if len(models) != 1:
        raise ModelError("the artefact must have one .gguf file", entry=catalogue.MODEL_LOAD_FAILED)
    return models[0]


def _missing() -> str:
    """What keeps the backend from working, and what would change that; empty where nothing does."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; {_INSTALL}"
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libgomp.so.1")
        except OSError:
            return "the system's library libgomp.so.1 is missing; install it (libgomp1 in Debian)"
        if platform.machine() == "x86_64" and not _has_avx2():
            return "the processor lacks AVX2, which the installed build of llama.cpp needs"
    return ""


def _has_avx2() -> bool:
    try:
        return "avx2" in _CPUINFO.read_text().split()
    except OSError:
        return True


def _version() -> str:
    try:
        return version("xllamacpp")
    except PackageNotFoundError:
        return ""
