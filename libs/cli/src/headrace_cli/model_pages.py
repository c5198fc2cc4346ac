"""Models, versions and their counters, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from headrace_cli.presentation import enum_text, facts, mean_ms_text, shape_text, size_text, table, time_text, words

if TYPE_CHECKING:
    from headrace_client.contracts.headrace.registry.v1 import manifest_pb2, models_pb2
    from headrace_client.contracts.inference import model_statistics_pb2


def model_table(models: Sequence[models_pb2.Model]) -> Table:
    """One row a model."""
    shown = table("model", ">latest", "created (UTC)", "description")
    for model in models:
        latest = str(model.latest_version) if model.latest_version else "-"
        shown.add_row(words(model.name, "name"), latest, time_text(model, "create_time"), words(model.description))
    return shown


def version_page(version: models_pb2.Version, others: Sequence[models_pb2.Version]) -> Iterator[RenderableType]:
    """All that there is to say about a version."""
    manifest = version.manifest
    yield words(f"{version.model}:{version.version}", "name")
    if manifest.description:
        yield words(manifest.description)
    shown = facts()
    shown.add_row("state", enum_text(version, "state"))
    shown.add_row("format", enum_text(manifest, "format"))
    shown.add_row("backend", words(manifest.backend))
    if manifest.task:
        shown.add_row("task", enum_text(manifest, "task"))
    if manifest.HasField("language"):
        language = manifest.language
        shown.add_row("language", f"{language.slots} slots of {language.context_length} tokens")
    if manifest.processing.HasField("image"):
        shown.add_row("takes", words(f"pictures as '{manifest.processing.image.input}'"))
    if manifest.processing.HasField("text"):
        text = manifest.processing.text
        shown.add_row("takes", words(f"texts of {text.max_length} tokens as '{text.input}'"))
    shown.add_row("created", time_text(version, "create_time") + " UTC")
    shown.add_row("uid", version.uid)
    for file in version.files:
        shown.add_row("file", words(f"{file.path}  {size_text(file.size_bytes)}"))
        shown.add_row("sha256", file.sha256)
    for name, value in sorted(manifest.metadata.items()):
        shown.add_row(words(name), words(value))
    yield shown
    yield tensor_table(manifest)
    if manifest.class_labels:
        yield Text(f"{len(manifest.class_labels)} class labels", style="quiet")
    listed = ", ".join(f"{other.version} ({enum_text(other, 'state')})" for other in others)
    yield Text(f"versions: {listed}", style="quiet")


def tensor_table(manifest: manifest_pb2.Manifest) -> Table:
    """Inputs and outputs of a version."""
    shown = table("tensor", "name", "datatype", "shape")
    for kind, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            optional = " (optional)" if tensor.optional else ""
            shown.add_row(kind + optional, words(tensor.name, "name"), tensor.datatype, shape_text(list(tensor.shape)))
    return shown


def statistics_table(counted: Sequence[model_statistics_pb2.ModelStatistics]) -> Table:
    """Counters of versions, with the mean times of a request in milliseconds."""
    shown = table("model", ">ok", ">failed", ">rows", ">executions", ">ms", ">queue ms", ">compute ms")
    for model in counted:
        stages = model.inference_stats
        shown.add_row(
            words(f"{model.name}:{model.version}", "name"),
            str(stages.success.count),
            str(stages.fail.count),
            str(model.inference_count),
            str(model.execution_count),
            mean_ms_text(stages.success.ns, stages.success.count),
            mean_ms_text(stages.queue.ns, stages.queue.count),
            mean_ms_text(stages.compute_infer.ns, stages.compute_infer.count),
        )
    return shown
