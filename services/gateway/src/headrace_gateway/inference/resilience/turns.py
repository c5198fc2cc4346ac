"""Whose waiting calls are looked at next when a place at a runner is free."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
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

    def first(self, tenants: int) -> list[Line]:
        """One line of each of so many tenants, in the order of their turns."""
        return [next(iter(lines)) for lines in islice(self._tenants.values(), tenants)]

    def served(self, line: Line, tenant_id: str) -> None:
        """The line had what it waited for: it and its tenant have their next turn after all others."""
        self._tenants.move_to_end(tenant_id)
        self._tenants[tenant_id].move_to_end(line)

    def passed(self, line: Line, tenant_id: str) -> None:
        """There was nothing for the line: another one of the tenant is next, and the tenant keeps its turn."""
        self._tenants[tenant_id].move_to_end(line)
