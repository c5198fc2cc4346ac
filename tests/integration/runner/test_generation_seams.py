"""What a model host asks of a language model beside texts: what it can't keep to, and whether it is still there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.gateway.v1.mesh_pb2 import ModelState
from headrace.registry.v1.manifest_pb2 import Manifest, ModelTask, TensorSpec
from headrace_common import catalogue
from headrace_common.errors import ModelError
from headrace_common.testing import FakeClock
from headrace_runner.backends.contract import Backend
from support.artifacts import version_of
from support.eventually import eventually
from support.generations import Generations
from support.runner import running_host
from support.scripted_language import UNKNOWN_GRAMMAR, ScriptedLanguageBackend

MANIFEST = Manifest(
    backend="scripted",
    task=ModelTask.MODEL_TASK_GENERATE,
    inputs=[TensorSpec(name="text_input", datatype="BYTES", shape=[1])],
    outputs=[TensorSpec(name="text_output", datatype="BYTES", shape=[1])],
)


@asynccontextmanager
async def loaded_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock | None = None
) -> AsyncGenerator[tuple[Generations, ScriptedLanguageBackend]]:
    backend = ScriptedLanguageBackend()

    def discovered(disabled: Iterable[str]) -> dict[str, Backend]:
        return {"scripted": backend}

    monkeypatch.setattr("headrace_runner.app.discover", discovered)
    async with running_host(folder, clock=clock) as runner:
        runner.artifacts.files["story.bin"] = b"story"
        version = version_of("story", {"story.bin": b"story"}, manifest=MANIFEST)
        runner.want(version)
        await runner.settled(version.uid)
        yield Generations(runner, version), backend


async def test_a_model_that_fails_for_good_is_told_of_unloaded_and_loaded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    async with loaded_model(tmp_path, monkeypatch, clock) as (calls, backend):
        (first,) = backend.models
        assert calls.runner.host.load().model_memory_bytes == first.memory_bytes
        first.failure = ModelError("its process can't be started", entry=catalogue.MODEL_LOAD_FAILED)
        calls.runner.host.sweep()
        event = calls.runner.events[-1]
        assert event.state == ModelState.MODEL_STATE_FAILED and b"can't be started" in event.status
        assert calls.runner.host.load().model_memory_bytes == 0
        await eventually(lambda: first.closed)
        clock.advance(60)
        calls.runner.want(calls.version)
        await calls.runner.settled(calls.version.uid)
        assert len(backend.models) == 2
        await calls.over(calls.generate())


async def test_a_constraint_that_can_t_be_kept_is_refused_before_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loaded_model(tmp_path, monkeypatch) as (calls, backend):
        model = backend.models[-1]
        model.may_stop.clear()
        holding = [calls.generate() for _ in range(model.slots)]
        await eventually(lambda: model.running == model.slots)
        request = pb.GenerateRequest(text="x", sampling=pb.SamplingParameters(grammar=UNKNOWN_GRAMMAR))
        refused = calls.generate(request=request)
        await calls.over(refused)
        assert refused.error.entry is catalogue.CONSTRAINT_INVALID
        model.may_stop.set()
        await calls.over(*holding)
