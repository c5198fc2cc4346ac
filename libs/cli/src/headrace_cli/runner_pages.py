"""Runners as tables, blocks and lines for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headrace_cli.presentation import enum_text, facts, printable, size_text, table, words

if TYPE_CHECKING:
    from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2

_STYLES = {"ready": "good", "gone": "quiet"}
LOADED = "loaded"
TABLE_COLUMNS = 110
"""On a terminal with fewer each runner is a block of its own."""


def runner_page(runners: Iterable[mesh_pb2.Runner], *, columns: int) -> RenderableType:
    """All runners for a terminal that is so many characters wide."""
    return runner_table(runners) if columns >= TABLE_COLUMNS else Group(*_blocks(runners))


def runner_table(runners: Iterable[mesh_pb2.Runner]) -> Table:
    """One row a runner."""
    shown = table("runner", "state", "device", ">heartbeat", ">calls", ">queued", ">memory", "backends", "models")
    for runner in runners:
        shown.add_row(
            words(runner.name or runner.id, "name"),
            _state(runner),
            words(_device_text(runner)),
            _age_text(runner),
            str(runner.in_flight),
            str(runner.queue_depth),
            size_text(runner.model_memory_bytes),
            backends_text(runner),
            words(models_text(runner)),
        )
    return shown


def runner_line(runner: mesh_pb2.Runner) -> Text:
    """A runner's new state in one line."""
    models = models_text(runner)
    return Text.assemble(words(runner.name or runner.id, "name"), " ", _state(runner), f"  {models}" if models else "")


def models_text(runner: mesh_pb2.Runner) -> str:
    """The models on a runner, with their state where it is not `loaded`, and what keeps calls from them."""
    return printable(", ".join(_model_text(model) for model in runner.models))


def backends_text(runner: mesh_pb2.Runner) -> Text:
    """A line a backend: whether it works, what it can do, and else why it does not."""
    return Text("\n").join(_backend_text(backend, usable=backend.name in runner.backends) for backend in _known(runner))


def _blocks(runners: Iterable[mesh_pb2.Runner]) -> Iterable[RenderableType]:
    for runner in runners:
        yield Text.assemble(
            words(runner.name or runner.id, "name"), " ", _state(runner), f"  heartbeat {_age_text(runner)} ago"
        )
        details = facts()
        name = f", {runner.device_name}" if runner.device_name else ""
        details.add_row("  device", words(f"{_device_text(runner)}{name}"))
        details.add_row(
            "  load",
            f"{runner.in_flight} calls, {runner.queue_depth} queued, {size_text(runner.model_memory_bytes)} of models",
        )
        details.add_row("  backends", backends_text(runner))
        details.add_row("  models", words(models_text(runner) or "none"))
        yield details


def _known(runner: mesh_pb2.Runner) -> list[mesh_pb2.BackendInfo]:
    """What the runner reports of its backends; those of an older runner have only names."""
    if runner.backend_info:
        return list(runner.backend_info)
    # Loaded here because help and completion need no contracts.
    from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2

    return [mesh_pb2.BackendInfo(name=name, healthy=True) for name in runner.backends]


def _backend_text(backend: mesh_pb2.BackendInfo, *, usable: bool) -> Text:
    name = f"{backend.name} {backend.version}".rstrip()
    if not backend.healthy:
        mark = ("✗ ", "bad") if usable else ("- ", "quiet")
        return Text.assemble(mark, words(name), words(f": {backend.reason or 'does not work'}", "quiet"))
    able = backend.capabilities
    features = [
        *(word for word, has in (("streaming", able.streaming), ("batching", able.batching)) if has),
        *able.quantization,
    ]
    details = f" ({', '.join(features)})" if features else ""
    return Text.assemble(("✓ ", "good"), words(name), words(details, "quiet"))


def _model_text(model: mesh_pb2.RunnerModel) -> str:
    state = enum_text(model, "state")
    if state != LOADED:
        more = model.error_reason or _progress_text(model)
        return f"{model.model}:{model.version} ({state}{': ' if more else ''}{more})"
    breaker = enum_text(model, "breaker").replace("_", "-")
    details = [
        *([f"{model.in_flight} calls"] if model.in_flight else []),
        *([f"{model.queue_depth} queued"] if model.queue_depth else []),
        *([f"breaker {breaker}"] if breaker in {"open", "half-open"} else []),
    ]
    return f"{model.model}:{model.version}" + (f" ({', '.join(details)})" if details else "")


def _progress_text(model: mesh_pb2.RunnerModel) -> str:
    """How far a load is: of fetching until that is done, then of loading, where that is known."""
    if not model.HasField("load_progress"):
        return ""
    progress = model.load_progress
    if progress.fetched_ratio < 1:
        return f"{progress.fetched_ratio:.0%} fetched"
    return f"{progress.loaded_ratio:.0%} in memory" if progress.loaded_ratio else "fetched"


def _device_text(runner: mesh_pb2.Runner) -> str:
    used = runner.device_gauges.get("utilization_ratio")
    return runner.device_type if used is None else f"{runner.device_type} {used:.0%}"


def _age_text(runner: mesh_pb2.Runner) -> str:
    age = runner.heartbeat_age
    return f"{age.seconds + age.nanos / 1e9:.1f} s"


def _state(runner: mesh_pb2.Runner) -> Text:
    state = enum_text(runner, "state")
    return Text(state, style=_STYLES.get(state, "warn"))
