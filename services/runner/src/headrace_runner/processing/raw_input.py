"""What turns the elements of a raw input into tensors of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry
from headrace_common.errors import TensorError
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.signature import RawInput

Row = Any
"""One element, read: what it is only its reader knows."""


class Made(NamedTuple):
    """Tensors for the model, made of rows.

    Attributes:
        inputs: By the names of the model's inputs.
        mask: 1 where a row has a token, 0 where it has padding, of shape (rows, tokens); None where rows have none.
    """

    inputs: dict[str, Array]
    mask: Array | None


class RawReader(Protocol):
    """Reads raw input. Called from several threads at once."""

    @property
    def raw(self) -> RawInput:
        """What it reads and what it makes."""
        ...

    @property
    def row_bytes(self) -> int:
        """What one row of the tensors takes at most."""
        ...

    def read(self, elements: Sequence[bytes]) -> list[Row]:
        """Reads the elements of one request, in order. Costs time by what is in them.

        Raises:
            TensorError: One of them is not what the model takes (INVALID_ARGUMENT); names it.
        """
        ...

    def join(self, rows: Sequence[Row]) -> Made:
        """The tensors for rows of one or several requests, in order."""
        ...


def element_error(
    raw: str, index: int, complaint: str, entry: CatalogueEntry, *, limit: int | None = None, actual: int = 0
) -> TensorError:
    """What is wrong with an element of a raw input, said with the limit that it exceeds, if it does.

    Args:
        raw: Name of the input.
        index: Place of the element in the request.
        complaint: To follow 'it', without a library's text.
        entry: The catalogue's entry.
        limit: What the model takes.
        actual: What came.
    """
    context: dict[str, str | int] = {"tensor": raw}
    if entry == catalogue.TENSOR_ELEMENT_INVALID:
        context["datatype"] = "BYTES"
    else:
        context["element"] = index
    if limit is not None:
        context |= {"limit": limit, "actual": actual}
    return TensorError(f"element {index} of input '{raw}' {complaint}", entry=entry, context=context)
