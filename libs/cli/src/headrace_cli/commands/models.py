"""`headrace models`: push, list, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from headrace.registry.v1 import manifest_pb2, models_pb2, models_pb2_grpc
from headrace_cli.commands.session import (
    DEFAULT_API_KEY,
    ApiKey,
    AsJson,
    Endpoint,
    Timeout,
    connect,
    print_json,
)
from headrace_cli.connection import Connection
from headrace_cli.presentation import enum_text, shape_text, size_text, table, time_text
from headrace_cli.terminal import messages, output
from headrace_cli.upload import file_sha256, read_manifest, upload_version
from headrace_common.errors import ValidationError

app = typer.Typer(help="Models and their versions.", no_args_is_help=True)


def split_version(text: str) -> tuple[str, int]:
    """`NAME` or `NAME:VERSION`; 0 stands for the latest version.

    Raises:
        ValidationError: the version is not a number of 1 or more.
    """
    name, separator, version = text.partition(":")
    if not separator:
        return name, 0
    if not (version.isascii() and version.isdigit() and int(version) > 0):
        raise ValidationError(f"'{version}' is not a version: it must be a whole number of 1 or more")
    return name, int(version)


@app.command("push")
def push(
    file: Annotated[Path, typer.Argument(help="The model file.", exists=True, dir_okay=False, readable=True)],
    name: Annotated[str, typer.Option("--name", help="The model; it is created when it does not exist.")],
    version: Annotated[
        int, typer.Option("--version", min=0, help="The version's number. 0 means the next free one.")
    ] = 0,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            exists=True,
            dir_okay=False,
            help="A model.yaml with fields that override what is read from the file.",
        ),
    ] = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    as_json: AsJson = False,
) -> None:
    """Upload a model file as a new version.

    Pushing the same bytes again under the same version number changes nothing; other bytes are refused.
    """
    override = read_manifest(manifest) if manifest else None
    size_bytes = file.stat().st_size
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    with (
        connect(endpoint, api_key) as connection,
        Progress(*columns, console=messages(), transient=True, disable=as_json) as progress,
    ):
        reading = progress.add_task("reading", total=size_bytes)
        sha256 = file_sha256(file, lambda count: progress.advance(reading, count))
        sending = progress.add_task("sending", total=size_bytes)
        stored = upload_version(
            connection,
            model=name,
            file=file,
            sha256=sha256,
            version=version,
            manifest=override,
            progress=lambda count: progress.advance(sending, count),
        )
    if as_json:
        print_json(stored)
        return
    output().print(
        Text.assemble(
            ("✓ ", "good"),
            (f"{stored.model}:{stored.version}", "name"),
            f"  {size_text(stored.size_bytes)}  sha256 {sha256[:12]}…",
        )
    )
    _print_tensors(stored.manifest)


@app.command("list")
def list_models(
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """List the tenant's models."""
    with connect(endpoint, api_key, timeout_s=timeout) as connection:
        stub = models_pb2_grpc.ModelServiceStub(connection.channel)
        models = [
            model for page in connection.pages(stub.ListModels, models_pb2.ListModelsRequest()) for model in page.models
        ]
    if as_json:
        print_json(models)
        return
    shown = table("model", ">latest", "created (UTC)", "description")
    for model in models:
        latest = str(model.latest_version) if model.latest_version else "-"
        shown.add_row(Text(model.name, style="name"), latest, time_text(model.create_time), Text(model.description))
    output().print(shown if models else Text("no models yet; push one with `headrace models push`"))


@app.command("show")
def show(
    model: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="Without a version: the latest.")],
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Show a version with its tensors, and which other versions there are."""
    name, number = split_version(model)
    with connect(endpoint, api_key, timeout_s=timeout) as connection:
        version = get_version(connection, name, number)
        stub = models_pb2_grpc.ModelServiceStub(connection.channel)
        versions = [
            other
            for page in connection.pages(stub.ListVersions, models_pb2.ListVersionsRequest(model=name))
            for other in page.versions
        ]
    if as_json:
        print_json(version)
        return
    console = output()
    console.print(Text.assemble((f"{version.model}:{version.version}", "name")))
    if version.manifest.description:
        console.print(Text(version.manifest.description))
    facts = table("", "")
    facts.show_header = False
    facts.add_row("state", enum_text(models_pb2.VersionState, version.state))
    facts.add_row("format", enum_text(manifest_pb2.ArtifactFormat, version.manifest.format))
    facts.add_row("backend", Text(version.manifest.backend))
    facts.add_row("created", time_text(version.create_time) + " UTC")
    facts.add_row("uid", version.uid)
    for file in version.files:
        facts.add_row("file", Text(f"{file.path}  {size_text(file.size_bytes)}"))
        facts.add_row("sha256", file.sha256)
    console.print(facts)
    _print_tensors(version.manifest)
    if version.manifest.class_labels:
        console.print(Text(f"{len(version.manifest.class_labels)} class labels", style="quiet"))
    others = ", ".join(f"{other.version} ({enum_text(models_pb2.VersionState, other.state)})" for other in versions)
    console.print(Text(f"versions: {others}", style="quiet"))


def get_version(connection: Connection, name: str, number: int) -> models_pb2.Version:
    """One version from the registry; number 0 means the latest READY one."""
    stub = models_pb2_grpc.ModelServiceStub(connection.channel)
    return connection.call(stub.GetVersion, models_pb2.GetVersionRequest(model=name, version=number)).version


def _print_tensors(manifest: manifest_pb2.Manifest) -> None:
    shown = table("tensor", "name", "datatype", "shape")
    for kind, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            shown.add_row(
                kind + (" (optional)" if tensor.optional else ""),
                Text(tensor.name, style="name"),
                tensor.datatype,
                Text(shape_text(list(tensor.shape))),
            )
    output().print(shown)
