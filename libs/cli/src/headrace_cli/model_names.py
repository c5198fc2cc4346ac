"""Models as people name them on the command line; see `headrace_client.model_reference`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from headrace_client.model_reference import ModelReference


def reference(text: str) -> ModelReference:
    """The model, and which of its versions.

    Raises:
        BadParameter: the text names none.
    """
    # Brings gRPC along, which help and completion don't need.
    from headrace_client.errors import ValidationError
    from headrace_client.model_reference import parse

    try:
        return parse(text)
    except ValidationError as error:
        raise typer.BadParameter(error.message) from None


def split_version(text: str) -> tuple[str, int]:
    """Name and number of the version; 0 stands for the newest version that is ready.

    Raises:
        BadParameter: the version is not a number of 1 or more, or the name is missing.
    """
    named = reference(text)
    if named.number is None:
        raise typer.BadParameter(f"'{named.model_version}' is not a version: it must be a whole number of 1 or more")
    return named.name, named.number


def with_version(text: str) -> tuple[str, int]:
    """As `split_version`, for what concerns one version.

    Raises:
        BadParameter: there is no version, too.
    """
    name, version = split_version(text)
    if not version:
        raise typer.BadParameter(f"name the version, too: {name}:VERSION")
    return name, version


def without_version(text: str) -> str:
    """The name alone, for what concerns all versions.

    Raises:
        BadParameter: it has a version.
    """
    named = reference(text)
    if named.version_or_alias:
        raise typer.BadParameter(f"a version can't be chosen here: write {named.name}")
    return named.name
