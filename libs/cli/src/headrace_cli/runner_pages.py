"""Runners as tables and lines for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from headrace_cli.presentation import enum_text, printable, size_text, table, words

if TYPE_CHECKING:
    from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2

_STYLES = {"ready": "good", "gone": "quiet"}
LOADED = "loaded"


def runner_table(runners: Iterable[mesh_pb2.Runner]) -> Table:
    """One row a runner."""
    shown = table("runner", "state", "device", ">calls", ">queued", ">memory", "models")
    for runner in runners:
        shown.add_row(
            words(runner.name or runner.id, "name"),
            _state(runner),
            words(runner.device_type),
            str(runner.in_flight),
            str(runner.queue_depth),
            size_text(runner.model_memory_bytes),
            words(models_text(runner)),
        )
    return shown


def runner_line(runner: mesh_pb2.Runner) -> Text:
    """A runner's new state in one line."""
    models = models_text(runner)
    return Text.assemble(words(runner.name or runner.id, "name"), " ", _state(runner), f"  {models}" if models else "")


def models_text(runner: mesh_pb2.Runner) -> str:
    """The models on a runner, with their state where it is not `loaded`."""
    return printable(", ".join(_model_text(model) for model in runner.models))


def _model_text(model: mesh_pb2.RunnerModel) -> str:
    state = enum_text(model, "state")
    details = "" if state == LOADED else f" ({state}{': ' if model.error_reason else ''}{model.error_reason})"
    return f"{model.model}:{model.version}{details}"


def _state(runner: mesh_pb2.Runner) -> Text:
    state = enum_text(runner, "state")
    return Text(state, style=_STYLES.get(state, "warn"))
