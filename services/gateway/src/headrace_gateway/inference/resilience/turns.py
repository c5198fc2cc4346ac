"""Whose waiting calls are looked at next when a place at a runner is free."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Line = TypeVar("Line")


class Turns(Generic[Line]):
    """Tenants take turns, and the lines of a tenant take turns within them: many models or calls win nobody more.

    Every operation is O(1). Pure.
    """

    __slots__ = ("_tenants",)

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[Line, None]] = OrderedDict()

    def __len__(self) -> int:
        """Tenants that wait."""
        return len(self._tenants)

    def join(self, line: Line, tenant_id: str) -> None:
        """A line has something that waits; does nothing when it has joined before."""
        lines = self._tenants.get(tenant_id)
        if lines is None:
            lines = self._tenants[tenant_id] = OrderedDict()
        lines.setdefault(line)

    def leave(self, line: Line, tenant_id: str) -> None:
        """A line is empty."""
        lines = self._tenants[tenant_id]
        del lines[line]
        if not lines:
            del self._tenants[tenant_id]

    def next(self) -> Line | None:
        """The line whose turn it is; its tenant and the line itself have their next turn after all others."""
        if not self._tenants:
            return None
        tenant_id, lines = next(iter(self._tenants.items()))
        self._tenants.move_to_end(tenant_id)
        line = next(iter(lines))
        lines.move_to_end(line)
        return line
