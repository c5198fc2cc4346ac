"""How a model's process is set up, what is said of its end, and what it leaves behind."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.registry.v1 import manifest_pb2
from headrace.registry.v1.manifest_pb2 import LanguagePolicy, Manifest
from headrace_common import catalogue
from headrace_common.clock import SystemClock
from headrace_common.errors import DeviceError, ModelError
from headrace_common.gguf import GgufHeader
from headrace_runner.backends.llamacpp.backend import LlamaCppBackend
from headrace_runner.backends.llamacpp.child_process import ending, likely_cause
from headrace_runner.backends.llamacpp.memory import available_bytes, process_bytes, resident_bytes
from headrace_runner.backends.llamacpp.private_folder import PrivateFolder, sweep
from headrace_runner.backends.llamacpp.process_log import ProcessLog
from headrace_runner.backends.llamacpp.settings import ProcessSettings, data_bytes_max, require_memory, settings_of

FILE = Path("/models/toy.gguf")
HEADER = GgufHeader(
    architecture="llama",
    name="Toy",
    context_length=8192,
    block_count=30,
    embedding_length=576,
    head_count=9,
    head_count_kv=3,
    kv_heads=90,
    key_length=64,
    value_length=64,
    vocabulary_size=100,
    pooling_type=None,
    causal_attention=True,
    chat_template="",
    quantisation="Q4_1",
    parameters=1,
)


def settings(header: GgufHeader = HEADER, task: int = 0, **language: int) -> ProcessSettings:
    manifest = Manifest(language=LanguagePolicy(**language))  # type: ignore[arg-type]
    manifest.task = task  # type: ignore[assignment]
    return settings_of(FILE, manifest, header, 2)


def test_defaults_suit_generation() -> None:
    found = settings()
    assert (found.slots, found.context_length, found.batch, found.threads, found.pooling) == (8, 4096, 64, 2, "")


def test_a_batch_has_room_for_a_token_of_each_slot() -> None:
    assert settings(slots=200, context_length=256, prompt_batch=16).batch == 200


def test_an_embedded_text_fits_into_one_batch_of_one_slot() -> None:
    found = settings(task=manifest_pb2.MODEL_TASK_EMBED, slots=8, context_length=512)
    assert (found.slots, found.batch, found.pooling) == (1, 512, "mean")


@pytest.mark.parametrize(
    ("stated", "by_file", "pooling"),
    [(0, None, "mean"), (0, 2, "cls"), (0, 3, "last"), (manifest_pb2.POOLING_MEAN, 2, "mean")],
)
def test_the_manifest_s_pooling_goes_before_the_file_s(stated: int, by_file: int | None, pooling: str) -> None:
    header = replace(HEADER, pooling_type=by_file)
    assert settings(header, manifest_pb2.MODEL_TASK_EMBED, pooling=stated).pooling == pooling


def test_only_models_that_rank_are_asked_to() -> None:
    assert settings(replace(HEADER, pooling_type=4), manifest_pb2.MODEL_TASK_RERANK).pooling == "rank"
    with pytest.raises(ModelError, match="was not trained to rank"):
        settings(task=manifest_pb2.MODEL_TASK_RERANK)
    with pytest.raises(ModelError, match="makes no vectors"):
        settings(replace(HEADER, pooling_type=4), manifest_pb2.MODEL_TASK_EMBED)


@pytest.mark.parametrize("language", [{"context_length": 8193}, {"slots": 257}, {"prompt_batch": 8}])
def test_what_the_file_or_llama_cpp_can_t_do_is_refused_before_anything_starts(language: dict[str, int]) -> None:
    with pytest.raises(ModelError) as refused:
        settings(HEADER, 0, **language)
    assert refused.value.entry is catalogue.MODEL_LOAD_FAILED
    assert next(iter(language)) in refused.value.message


def test_a_cache_larger_than_the_memory_is_refused_with_the_numbers() -> None:
    asked = settings(slots=256, context_length=8192)
    require_memory(asked, HEADER, file_bytes=100 << 20, available_bytes=None)
    require_memory(asked, HEADER, file_bytes=100 << 20, available_bytes=60 << 30)
    with pytest.raises(
        DeviceError, match=r"about 46244 MiB, 46080 of them for 256 sequences of 8192 tokens"
    ) as refused:
        require_memory(asked, HEADER, file_bytes=100 << 20, available_bytes=1 << 30)
    assert refused.value.entry is catalogue.DEVICE_OUT_OF_MEMORY


def test_no_process_may_take_all_memory_and_every_sound_one_fits() -> None:
    asked = settings(slots=256, context_length=8192)
    cache_bytes = 23040 * 256 * 8192
    assert cache_bytes + (5 << 30) < data_bytes_max(asked, HEADER, file_bytes=1 << 30) < 2 * cache_bytes


def test_the_control_group_s_memory_counts_where_it_is_less(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 2048 kB\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2 << 20
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 1000\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 1048576 - 1000000 + 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2 << 20
    assert available_bytes(tmp_path / "none", tmp_path) is None


def test_memory_of_a_process_is_its_share() -> None:
    assert 0 < process_bytes(os.getpid()) <= resident_bytes(os.getpid()) * 1.1
    assert process_bytes(2**22 + 1) == 0


def test_why_a_model_can_t_be_loaded_is_told_without_paths() -> None:
    log = ProcessLog(model="toy", clock=SystemClock())
    log.feed(b"0.00.02 E llama_model_load: error loading model: can't open '/models/secret/toy.gguf', it is corr")
    log.feed(b"upted\n0.00.03 E llama_model_load_from_file_impl: failed to load model")
    log.end()
    assert log.load_error() == "can't open the file, it is corrupted"


def test_a_line_without_end_takes_no_memory() -> None:
    log = ProcessLog(model="toy", clock=SystemClock())
    for _ in range(100):
        log.feed(b"GGML_ASSERT" + b"x" * 100_000)
    log.end()
    assert log.load_error() == ""
    assert len(log.last_words()) == 500


def test_how_a_process_ended_is_told() -> None:
    assert ending(3) == "left with status 3"
    assert ending(-9) == "was ended by SIGKILL"
    assert "instructions" in likely_cause(ending(-4))


def test_folders_of_processes_that_are_gone_are_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not pytest's folder, whose path may be too long for sockets.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        base = Path(folder)
        monkeypatch.setattr("tempfile.tempdir", folder)
        used, left = PrivateFolder(), PrivateFolder()
        assert left._lock is not None
        left._lock.release()
        (left.path / "model.sock").touch()
        assert sweep(base, age_min_s=3600) == 0
        # Below zero: the file system's clock may be a hair ahead of that of another core.
        assert sweep(base, age_min_s=-60) == 1
        assert list(base.iterdir()) == [used.path]
        used.remove()
        used.remove()
        assert list(base.iterdir()) == []


def test_a_folder_s_socket_has_a_path_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    folder = PrivateFolder()
    assert len(os.fsencode(folder.path / "model.sock")) <= 107
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.remove()


def test_a_missing_package_or_library_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_runner.backends.llamacpp.backend.find_spec", lambda name: None)
    missing = LlamaCppBackend().available()
    assert missing.device_types == ()
    assert missing.reason == "not installed: xllamacpp, aiohttp, llguidance; install headrace-runner[llamacpp]"
    monkeypatch.setattr("headrace_runner.backends.llamacpp.backend.find_spec", lambda name: name)

    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert "libgomp1" in LlamaCppBackend().available().reason
