"""`headrace models`: the versions that there are, and what is in memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.model_names import split_version, with_version, without_version
from headrace_cli.model_pages import model_table, statistics_table, tensor_table, version_page
from headrace_cli.presentation import enum_text, size_text
from headrace_cli.session import Session, calls_mesh
from headrace_cli.terminal import elapsed, output, transfer_bar

app = typer.Typer(help="Models and their versions.", no_args_is_help=True)
_TRANSFER_TIMEOUT_S = 300.0
Model = Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="Without a version: the newest ready one.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model.")]


@app.command("push")
@calls_mesh
def push(
    session: Session,
    file: Annotated[Path, typer.Argument(help="The model file.", exists=True, dir_okay=False, readable=True)],
    name: Annotated[str, typer.Option("--name", help="The model; it is created when it doesn't exist.")],
    version: Annotated[
        int, typer.Option("--version", min=0, help="The version's number. 0 means the next free one.")
    ] = 0,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            exists=True,
            dir_okay=False,
            help="A model.yaml or .json with fields that override what is read from the file.",
        ),
    ] = None,
    extra_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            exists=True,
            dir_okay=False,
            readable=True,
            help="A file that the manifest needs beside the model's, such as tokenizer.json; may be repeated.",
        ),
    ] = None,
) -> None:
    """Upload a model file as a new version, and wait until it can be called.

    Pushing the same bytes again changes nothing; other bytes under a version number that is taken are refused.
    """
    with session.client() as client, transfer_bar("sending", then="checking") as progress:
        stored = client.models.push(
            file,
            name=name,
            version=version,
            manifest=manifest,
            extra_files=extra_files or (),
            progress=progress,
            timeout_s=session.timeout_s,
        )
    if session.as_json:
        print_json(stored)
        return
    size = size_text(stored.size_bytes)
    sha256 = next((one for one in stored.files if one.path == file.name), stored.files[0]).sha256[:12]
    console = output()
    console.print(Text.assemble(("✓ ", "good"), (f"{stored.model}:{stored.version}", "name"), f"  {size}  {sha256}…"))
    console.print(tensor_table(stored.manifest))


@app.command("list")
@calls_mesh
def list_models(session: Session) -> None:
    """List the tenant's models."""
    with session.client() as client:
        models = client.models.list()
    if session.as_json:
        print_json(models)
        return
    output().print(model_table(models) if models else Text("no models yet; push one with `headrace models push`"))


@app.command("show")
@calls_mesh
def show(session: Session, model: Model) -> None:
    """Show a version with its tensors, and which other versions there are."""
    name, number = split_version(model)
    with session.client() as client:
        version = client.models.version(name, number)
        versions = client.models.versions(name)
    if session.as_json:
        print_json({"version": version, "versions": versions})
        return
    console = output()
    for part in version_page(version, versions):
        console.print(part)


@app.command("load")
@calls_mesh
def load(session: Session, model: Name) -> None:
    """Have the newest version of a model in memory, and wait until it can serve."""
    name = without_version(model)
    started_at = time.monotonic()
    timeout_s = session.timeout_or(_TRANSFER_TIMEOUT_S)
    with session.client() as client, elapsed(f"loading {name}"):
        client.models.load(name, timeout_s=timeout_s)
    took_s = time.monotonic() - started_at
    if session.as_json:
        print_json({"model": name, "loaded": True, "took_s": round(took_s, 3)})
        return
    output().print(Text.assemble(("✓ ", "good"), (name, "name"), f" is loaded, after {took_s:.1f} s"))


@app.command("unload")
@calls_mesh
def unload(session: Session, model: Name) -> None:
    """Take a model out of memory; calls under way finish first, and the next call loads it again."""
    name = without_version(model)
    timeout_s = session.timeout_or(_TRANSFER_TIMEOUT_S)
    with session.client() as client, elapsed(f"unloading {name}"):
        client.models.unload(name, timeout_s=timeout_s)
    if session.as_json:
        print_json({"model": name, "loaded": False})
        return
    output().print(Text.assemble(("✓ ", "good"), (name, "name"), " is out of memory"))


@app.command("archive")
@calls_mesh
def archive(
    session: Session, model: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version to archive.")]
) -> None:
    """Take a version out of service for good."""
    name, number = with_version(model)
    with session.client() as client:
        version = client.models.archive(name, number)
    if session.as_json:
        print_json(version)
        return
    state = enum_text(version, "state")
    output().print(Text.assemble(("✓ ", "good"), (f"{version.model}:{version.version}", "name"), f" is {state}"))


@app.command("download")
@calls_mesh
def download(
    session: Session,
    model: Model,
    to: Annotated[Path, typer.Option("--to", help="File to write, or a folder.")] = Path(),
    file: Annotated[
        str, typer.Option("--file", metavar="PATH", help="Which file of the version. Default: the only one.")
    ] = "",
) -> None:
    """Fetch a version's file; it appears only whole, and with the right SHA-256."""
    name, number = split_version(model)
    if not to.parent.is_dir():
        raise typer.BadParameter(f"the folder {to.parent} does not exist", param_hint="--to")
    timeout_s = session.timeout_or(_TRANSFER_TIMEOUT_S)
    with session.client() as client, transfer_bar("receiving", then="received") as progress:
        path = client.models.download(name, to, version=number, file=file, progress=progress, timeout_s=timeout_s)
    size_bytes = path.stat().st_size
    if session.as_json:
        print_json({"model": name, "path": str(path), "size_bytes": size_bytes})
        return
    output().print(Text.assemble(("✓ ", "good"), (str(path), "name"), f"  {size_text(size_bytes)}"))


@app.command("stats")
@calls_mesh
def stats(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="[NAME[:VERSION]]", help="Default: all models.")] = "",
) -> None:
    """Show what the answering gateway has counted of models' calls since it started."""
    name, number = split_version(model) if model else ("", 0)
    with session.client() as client:
        counted = list(client.statistics(name, number))
    if session.as_json:
        print_json(counted)
        return
    output().print(statistics_table(counted) if counted else Text("nothing has been called at this gateway yet"))
