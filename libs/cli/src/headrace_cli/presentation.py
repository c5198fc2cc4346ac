"""Tables and small texts for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from google.protobuf.message import Message

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


def facts() -> Table:
    """An empty table of names and values."""
    made = table("", "")
    made.show_header = False
    return made


def words(text: str, style: str = "") -> Text:
    """A text of somebody else's, for one cell: not markup, on one line, and without what could steer a terminal."""
    return Text(printable(text), style=style)


def printable(text: str) -> str:
    """The text on one line; other characters that are not to be seen become a replacement character."""
    return "".join(one if one.isprintable() else " " if one.isspace() else "\N{REPLACEMENT CHARACTER}" for one in text)


def size_text(size_bytes: int) -> str:
    """A size in the largest binary unit that leaves a number of at least 1."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes everything")


def time_text(message: Message, field: str) -> str:
    """A timestamp in UTC, to the second; empty when it is not set."""
    if not message.HasField(field):
        return ""
    seconds: int = getattr(message, field).seconds
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def enum_text(message: Message, field: str) -> str:
    """`VERSION_STATE_READY` as `ready`; several values one after the other."""
    enum: Any = message.DESCRIPTOR.fields_by_name[field].enum_type
    value: Any = getattr(message, field)
    numbers: list[int] = [value] if isinstance(value, int) else list(value)
    return ", ".join(_enum_word(enum, number) for number in numbers)


def _enum_word(enum: Any, number: int) -> str:
    known = enum.values_by_number.get(number)
    if known is None:
        return str(number)  # Of a mesh that is newer than this command.
    snake = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name).lstrip("_").upper()
    name: str = known.name
    return name.removeprefix(snake + "_").lower()


def shape_text(shape: list[int]) -> str:
    """`[*, 2048]`: a star is a size that the request chooses."""
    return "[" + ", ".join("*" if size < 0 else str(size) for size in shape) + "]"


def mean_ms_text(nanoseconds: int, count: int) -> str:
    """The mean in milliseconds; a dash for nothing."""
    return f"{nanoseconds / count / 1e6:.2f}" if count else "-"
