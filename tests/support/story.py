"""A runner with a scripted language model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.registry.v1.manifest_pb2 import (
    ExecutionPolicy,
    LanguagePolicy,
    Manifest,
    ModelTask,
    TensorSpec,
)
from headrace_common.testing import FakeClock
from headrace_runner.backends.contract import Backend
from headrace_runner.backends.discovery import discover
from support.artifacts import version_of
from support.generations import Generations
from support.runner import running_host
from support.scripted_language import ScriptedLanguageBackend, ScriptedLanguageModel

SLOTS = 4
CONTEXT = 64
ENDLESS = pb.GenerateRequest(text="x")
"""Goes on until the context is full."""


def manifest(**execution: Any) -> Manifest:
    return Manifest(
        backend="scripted",
        task=ModelTask.MODEL_TASK_GENERATE,
        inputs=[TensorSpec(name="text_input", datatype="BYTES", shape=[1])],
        outputs=[TensorSpec(name="text_output", datatype="BYTES", shape=[1])],
        language=LanguagePolicy(slots=SLOTS, context_length=CONTEXT),
        execution=ExecutionPolicy(**execution),
    )


@dataclass
class Story(Generations):
    """A runner with a scripted language model."""

    backend: ScriptedLanguageBackend

    @property
    def model(self) -> ScriptedLanguageModel:
        return self.backend.models[-1]

    async def all_free(self) -> None:
        await super().all_free()
        assert self.model.running == 0


def installed(monkeypatch: pytest.MonkeyPatch, *, held: bool = False) -> ScriptedLanguageBackend:
    """A backend that every runner of the test has."""
    backend = ScriptedLanguageBackend(held=held)

    def discovered(disabled: Iterable[str]) -> dict[str, Backend]:
        return {**discover([*disabled, "llamacpp"]), "scripted": backend}

    monkeypatch.setattr("headrace_runner.app.discover", discovered)
    return backend


@asynccontextmanager
async def story(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    clock: FakeClock | None = None,
    described: Manifest | None = None,
    held: bool = False,
    **settings: Any,
) -> AsyncGenerator[Story]:
    backend = installed(monkeypatch, held=held)
    async with running_host(folder, clock=clock, **settings) as runner:
        runner.artifacts.files["story.bin"] = b"story"
        version = version_of("story", {"story.bin": b"story"}, manifest=described or manifest())
        runner.want(version)
        await runner.settled(version.uid)
        loaded = Story(runner, version, backend)
        yield loaded
        for model in backend.models:
            model.may_go.set()
            model.may_stop.set()
