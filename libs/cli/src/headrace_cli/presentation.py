"""Tables and small texts for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from rich.box import SIMPLE_HEAD
from rich.table import Table

_UUID_CHARS = 36


def table(*columns: str) -> Table:
    """An empty table in the house style; columns that begin with `>` are aligned right, `id` is never folded."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="quiet")
    for column in columns:
        right = column.startswith(">")
        made.add_column(
            column.lstrip(">"),
            justify="right" if right else "left",
            overflow="fold",
            min_width=_UUID_CHARS if column == "id" else None,
        )
    return made


def size_text(size_bytes: int) -> str:
    """A size in the largest binary unit that leaves a number of at least 1."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes everything")


def time_text(timestamp: Timestamp) -> str:
    """A time in UTC, to the second; empty when it is not set."""
    if not timestamp.seconds:
        return ""
    return datetime.fromtimestamp(timestamp.seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def enum_text(enum: Any, value: int) -> str:
    """`VERSION_STATE_READY` as `ready`."""
    name: str = enum.Name(value)
    prefix = enum.DESCRIPTOR.name
    snake = "".join(f"_{letter}" if letter.isupper() else letter for letter in prefix).lstrip("_").upper()
    return name.removeprefix(snake + "_").lower().replace("_", " ")


def shape_text(shape: list[int]) -> str:
    """`[*, 2048]`: a star is a size that the request chooses."""
    return "[" + ", ".join("*" if size < 0 else str(size) for size in shape) + "]"
