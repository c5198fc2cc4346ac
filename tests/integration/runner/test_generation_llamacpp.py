"""A real language model behind a model host: what the scheduling of slots makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.registry.v1.manifest_pb2 import ArtifactFormat, LanguagePolicy, Manifest, ModelTask
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from support.artifacts import version_of
from support.eventually import eventually
from support.generations import Generations, Heard
from support.runner import running_host
from support.smollm2 import PROMPTS, model_file

pytest.importorskip("xllamacpp")

SLOTS = 2
LONG = " ".join(PROMPTS) * 4


@asynccontextmanager
async def smollm2(folder: Path) -> AsyncGenerator[Generations]:
    described = Manifest(
        format=ArtifactFormat.ARTIFACT_FORMAT_GGUF,
        backend="llamacpp",
        task=ModelTask.MODEL_TASK_GENERATE,
        language=LanguagePolicy(slots=SLOTS, context_length=2_048),
    )
    content = model_file().read_bytes()
    async with running_host(folder, threads=1) as runner:
        runner.artifacts.files["model.gguf"] = content
        version = version_of("smollm2", {"model.gguf": content}, manifest=described)
        runner.want(version)
        await eventually(lambda: runner.states(version.uid)[-1:] in (["LOADED"], ["FAILED"]), within_s=60)
        await runner.settled(version.uid)
        yield Generations(runner, version)


def asked(text: str, *, max_tokens: int = 8, completions: int = 1) -> pb.GenerateRequest:
    sampling = pb.SamplingParameters(temperature=0, seed=7, max_tokens=max_tokens)
    return pb.GenerateRequest(text=text, sampling=sampling, completions=completions)


async def text_of(loaded: Generations, request: pb.GenerateRequest, *, emitted: tuple[int, ...] = ()) -> Heard:
    heard = loaded.generate(request=request, emitted=emitted, timeout_s=60)
    await eventually(lambda: heard.over, within_s=60)
    return heard


def processes() -> list[int]:
    """Processes of models: the children of this one that serve one."""
    own = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    found: list[int] = []
    for pid in own:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{os.getpid()}\n" in status and b"llamacpp" in command:
            found.append(pid)
    return found


async def test_a_real_model_is_scheduled_cancelled_lost_and_unloaded(tmp_path: Path) -> None:
    async with smollm2(tmp_path) as loaded:
        alone = [(await text_of(loaded, asked(prompt))).text() for prompt in PROMPTS[:3]]
        heard = [loaded.generate(request=asked(prompt), timeout_s=60) for prompt in PROMPTS[:3]]
        several = loaded.generate(request=asked(PROMPTS[0], completions=2), timeout_s=60)
        await eventually(lambda: all(one.over for one in (*heard, several)), within_s=60)
        assert [one.text() for one in heard] == alone
        assert [several.text(0), several.text(1)] == [alone[0]] * 2

        # Another replica goes on where one was lost, without a seam.
        begun = await text_of(loaded, asked(PROMPTS[0], max_tokens=5))
        emitted = tuple(token for message in begun.messages for delta in message.deltas for token in delta.token_ids)
        rest = await text_of(loaded, asked(PROMPTS[0]), emitted=emitted)
        assert begun.text() + rest.text() == alone[0]
        assert loaded.metric("tokens_total", kind="cached_prompt") > 0

        # Slots come back from cancels in the middle of a prompt and of a text.
        prefill = [loaded.generate(request=asked(LONG), timeout_s=60) for _ in range(2 * SLOTS)]
        await asyncio.sleep(0.1)
        for one in prefill:
            one.cancel()
        await eventually(lambda: loaded.runner.host.load().in_flight == 0)
        endless = loaded.generate(request=asked("x", max_tokens=1_500), timeout_s=60)
        await eventually(lambda: len(endless.parts) > 3, within_s=60)
        endless.cancel()
        await loaded.all_free()

        # A process that is killed takes its streams with it, and comes back.
        endless = loaded.generate(request=asked("x", max_tokens=1_500), timeout_s=60)
        await eventually(lambda: len(endless.parts) > 3, within_s=60)
        (pid,) = processes()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: endless.over)
        assert endless.error.entry is catalogue.MODEL_PROCESS_LOST

        async with asyncio.timeout(60):
            while isinstance((again := await text_of(loaded, asked(PROMPTS[0]))).outcome, HeadraceError):
                await asyncio.sleep(0.1)
        assert again.text() == alone[0]
    await eventually(lambda: not processes())
