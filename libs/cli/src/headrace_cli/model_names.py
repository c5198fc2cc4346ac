"""Models as people name them: `NAME` or `NAME:VERSION`."""

from __future__ import annotations

import typer


def split_version(text: str) -> tuple[str, int]:
    """Name and version; 0 stands for the newest version that is ready.

    Raises:
        BadParameter: the version is not a number of 1 or more, or the name is missing.
    """
    name, separator, version = text.partition(":")
    if not name:
        raise typer.BadParameter(f"'{text}' names no model")
    if not separator:
        return name, 0
    if not (version.isascii() and version.isdigit() and 0 < int(version) < 1 << 63):
        raise typer.BadParameter(f"'{version}' is not a version: it must be a whole number of 1 or more")
    return name, int(version)


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
    name, version = split_version(text)
    if version:
        raise typer.BadParameter(f"a version can't be chosen here: write {name}")
    return name
