"""How a model's process is set up, what is said of its end, and what it leaves behind."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

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
from headrace_runner.backends.llamacpp.settings import (
    ProcessSettings,
    data_bytes_max,
    memory_needed,
    require_memory,
    settings_of,
)
from headrace_runner.backends.llamacpp.silence import Silence
from headrace_runner.other_process import computed_by

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
    assert (found.slots, found.context_length, found.batch, found.threads, found.pooling) == (8, 4096, 72, 2, "")


def test_a_prompt_has_its_whole_batch_beside_a_token_of_each_slot() -> None:
    assert settings(slots=200, context_length=256, prompt_batch=16).batch == 216


def test_a_large_model_has_more_time_for_a_batch() -> None:
    small, large = settings(), settings(replace(HEADER, parameters=70 * 10**9))
    assert 10 <= small.batch_max_s < 11 and large.batch_max_s > 1000


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


def test_the_cache_is_part_of_what_a_model_needs() -> None:
    needed = memory_needed(settings(slots=8, context_length=4096), HEADER, file_bytes=100 << 20)
    assert (100 << 20) + 23040 * 8 * 4096 < needed < 1 << 30


def test_a_process_hangs_by_what_it_has_computed_and_not_by_the_clock() -> None:
    silence = Silence(work_max_s=10)
    silence.begins(5.0)
    # An hour in which it got a hundredth of a processor and a half.
    assert not any(silence.goes_on(5.0 + 0.015 * round_) for round_ in range(600))
    assert not silence.goes_on(15.0) and silence.goes_on(15.1)
    silence.begins(15.1)
    assert not silence.goes_on(20.0)
    # The least that Linux counts, in numbers whose difference is now and then a little less.
    silence.begins(0.0)
    assert not any(silence.goes_on(round_ / 100) for round_ in range(1, 600))


def test_a_process_that_waits_for_ever_hangs_too() -> None:
    silence = Silence(work_max_s=10)
    silence.begins(5.0)
    rounds = [silence.goes_on(5.0) for _ in range(200)]
    assert rounds.index(True) > 60


def test_processor_time_is_counted_and_unknown_of_what_is_gone() -> None:
    before_s, until_s = computed_by(os.getpid()), time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    assert 0.05 < computed_by(os.getpid()) - before_s < 5
    assert computed_by(2**22 + 1) == 0


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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("llama_model_load: error loading model: tensor 'blk.11' data is not within the file bounds", "cut off"),
        ("llama_model_load: error loading model: unknown model architecture: 'secret'", "this kind of model"),
        ("common_chat_templates_init: error parsing chat template: 'secret'", "chat template"),
        ("llama_model_load: error loading model: can't open '/models/secret.gguf'", "can't be used"),
        ("ggml_aligned_malloc: failed to allocate 1 secret", "memory"),
    ],
)
def test_why_a_model_can_t_be_loaded_is_told_in_words_of_our_own(said: str, told: str) -> None:
    log = ProcessLog(model="toy", clock=SystemClock())
    log.feed(b"0.00.02 E " + said[:30].encode())
    log.feed(said[30:].encode() + b"\n0.00.03 E llama_model_load_from_file_impl: failed to load model")
    log.end()
    assert told in log.load_error() and "secret" not in log.load_error()


def test_what_users_wrote_is_in_no_log_but_that_for_faults() -> None:
    with capture_logs() as logs:
        log = ProcessLog(model="toy", clock=SystemClock())
        log.loaded()
        log.feed(b"0.00.02 E parse error near 'my secret'\nwhat():  my secret\n")
        log.feed(b"/src/llama.cpp:12: GGML_ASSERT(n_batch > 0) failed my secret\n")
    assert {entry["log_level"] for entry in logs} == {"debug"}
    assert log.last_words() == "GGML_ASSERT(n_batch > 0) failed"


def test_a_line_without_end_takes_no_memory() -> None:
    log = ProcessLog(model="toy", clock=SystemClock())
    for _ in range(100):
        log.feed(b"out of memory" + b"x" * 100_000)
    log.end()
    assert log.last_words() == "out of memory"
    assert len(log._rest) == 0


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
