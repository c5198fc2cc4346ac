"""Who is next among the calls that wait for one model."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

_DEAD_MIN = 64
# Ageing times after which an item goes before earlier deadlines of its own priority.
_PATIENCE = 10


class Waiting(Generic[Item]):
    """One item in the queue.

    Attributes:
        item: What waits; None once it has left.
        group: Items of one group may share an execution; None for one that executes alone.
        rows: Rows of it, its cost; at least 1.
        deadline: When its answer is worth nothing any more, a reading of the clock that `entered_s` is one of.
    """

    __slots__ = ("deadline", "entered_s", "group", "item", "payload_bytes", "priority", "rows", "tenant_id")

    def __init__(
        self,
        item: Item,
        tenant_id: str,
        priority: int,
        group: Hashable | None,
        rows: int,
        payload_bytes: int,
        deadline: float,
        entered_s: float,
    ) -> None:
        self.item: Item | None = item
        self.tenant_id = tenant_id
        self.priority = priority
        self.group = group
        self.rows = rows
        self.payload_bytes = payload_bytes
        self.deadline = deadline
        self.entered_s = entered_s


_Heap = list[tuple[float, int, Waiting[Item]]]


class _Share(Generic[Item]):
    """One tenant's items of one band: a heap by deadline for each group."""

    __slots__ = ("credit", "dead", "heaps", "live", "tenant_id")

    def __init__(self, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self.credit = 0
        self.heaps: dict[Hashable | None, _Heap[Item]] = {}
        self.live = 0
        self.dead = 0

    def earliest(self, group: Hashable | None) -> Waiting[Item] | None:
        """The item of the group whose deadline comes first, without those that have left."""
        heap = self.heaps.get(group)
        if heap is None:
            return None
        while heap and heap[0][2].item is None:
            heappop(heap)
            self.dead -= 1
        if heap:
            return heap[0][2]
        del self.heaps[group]
        return None

    def first(self) -> Waiting[Item]:
        """The item whose deadline comes first; the share has one that lives."""
        best: Waiting[Item] | None = None
        for group in tuple(self.heaps):
            head = self.earliest(group)
            if head is not None and (best is None or head.deadline < best.deadline):
                best = head
        assert best is not None, "a share without items leaves its band"
        return best

    def forget_dead(self) -> None:
        """Frees what left from the middle of a heap, once that is more than what lives."""
        if self.dead > self.live + _DEAD_MIN:
            for group, heap in list(self.heaps.items()):
                alive = [entry for entry in heap if entry[2].item is not None]
                heapify(alive)
                self.heaps[group] = alive
                if not alive:
                    del self.heaps[group]
            self.dead = 0


class _Band(Generic[Item]):
    """All items of one priority: in order of arrival for ageing, and by tenant for fairness."""

    __slots__ = ("arrivals", "debts", "order", "shares")

    def __init__(self) -> None:
        # Of tenants that have nothing here now, so that they don't come back without.
        self.debts: dict[str, int] = {}
        self.arrivals: OrderedDict[Item, Waiting[Item]] = OrderedDict()
        self.shares: dict[str, _Share[Item]] = {}
        self.order: deque[_Share[Item]] = deque()

    @property
    def oldest(self) -> Waiting[Item]:
        return next(iter(self.arrivals.values()))

    def turn(self) -> _Share[Item]:
        """The tenant whose turn it is, moved to the front: the first in the round that owes nothing."""
        order = self.order
        if len(order) > 1:
            if all(share.credit < 0 for share in order):
                owed = max(share.credit for share in order)
                for share in order:
                    share.credit -= owed
                self.debts = {tenant: debt - owed for tenant, debt in self.debts.items() if debt < owed}
            while order[0].credit < 0:
                order.rotate(-1)
        return order[0]


class FairQueue(Generic[Item]):
    """Orders waiting items by urgency, then fairly by tenant, then by deadline. Pure: no time of its own, no I/O.

    - Bands: one for each priority; a band gains one priority for each `ageing_s` that its oldest item has waited. When
      it has its turn for that, or after ten times that anyway, it is that item's: nothing waits for ever.
    - Within a band, tenants take turns and pay rows: one that has had more than its share waits until the others have
      caught up. Source: deficit round robin with debts, Adiseshu, Parulkar and Varghese, "A Reliable and Scalable
      Striping Protocol" (surplus round robin), 1996.
    - Within a tenant, the earliest deadline is first.

    Adding, removing and taking cost O(log n) in the items, and O(t) in the tenants that wait at the same priority and
    the groups of the one whose turn it is.

    Args:
        ageing_s: Waiting time that is worth one priority, in seconds.
    """

    def __init__(self, *, ageing_s: float) -> None:
        self._ageing_s = ageing_s
        self._bands: dict[int, _Band[Item]] = {}
        self._waiting: dict[Item, Waiting[Item]] = {}
        self._rows_of: dict[Hashable | None, int] = {}
        self._entered = 0
        self.rows = 0
        self.payload_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def of_priority(self, priority: int) -> int:
        """Items of one priority that wait."""
        band = self._bands.get(priority)
        return len(band.arrivals) if band is not None else 0

    def rows_of(self, group: Hashable | None) -> int:
        """Rows that wait of one group."""
        return self._rows_of.get(group, 0)

    def push(self, waiting: Waiting[Item]) -> None:
        """Takes an item in that isn't here."""
        item = waiting.item
        assert item is not None, "an item that has left does not come back"
        self._waiting[item] = waiting
        band = self._bands.get(waiting.priority)
        if band is None:
            band = self._bands[waiting.priority] = _Band()
        band.arrivals[item] = waiting
        share = band.shares.get(waiting.tenant_id)
        if share is None:
            share = band.shares[waiting.tenant_id] = _Share(waiting.tenant_id)
            share.credit = band.debts.pop(waiting.tenant_id, 0)
            band.order.append(share)
        share.live += 1
        heap = share.heaps.get(waiting.group)
        if heap is None:
            heap = share.heaps[waiting.group] = []
        self._entered += 1
        heappush(heap, (waiting.deadline, self._entered, waiting))
        self.rows += waiting.rows
        self.payload_bytes += waiting.payload_bytes
        self._rows_of[waiting.group] = self._rows_of.get(waiting.group, 0) + waiting.rows

    def remove(self, item: Item) -> bool:
        """Takes an item out without serving it; False when it isn't here."""
        waiting = self._waiting.get(item)
        if waiting is None:
            return False
        self._leave(waiting)
        return True

    def peek(self, now: float) -> tuple[Waiting[Item], float]:
        """The item that is next, and when the oldest of its band came. There must be one."""
        band = self._band()
        oldest = band.oldest
        by_age = oldest.priority < max(self._bands)
        if by_age or now - oldest.entered_s > _PATIENCE * self._ageing_s:
            return oldest, oldest.entered_s
        return band.turn().first(), oldest.entered_s

    def groups(self) -> list[Hashable | None]:
        """The groups of which something waits."""
        return list(self._rows_of)

    def take(self, waiting: Waiting[Item]) -> None:
        """Serves an item: its tenant pays for it. What it had while it was alone is nobody's loss."""
        band = self._bands[waiting.priority]
        share = band.shares[waiting.tenant_id]
        share.credit = (share.credit if len(band.order) > 1 else 0) - waiting.rows
        self._leave(waiting)

    def next_of(self, group: Hashable, rows_max: int) -> Waiting[Item] | None:
        """The next item that may share an execution with others of its group, of at most so many rows.

        Bands by urgency, tenants by their turn; one whose first item has too many rows is passed over.
        """
        for band in self._by_urgency():
            band.turn()
            for share in band.order:
                head = share.earliest(group)
                if head is not None and head.rows <= rows_max:
                    return head
        return None

    def _urgency(self, priority: int, band: _Band[Item]) -> float:
        # Static while nothing comes or goes: an item's urgency rises by the clock alike for all.
        return priority * self._ageing_s - band.oldest.entered_s

    def _band(self) -> _Band[Item]:
        bands = self._bands
        if len(bands) == 1:
            return next(iter(bands.values()))
        return max(bands.items(), key=lambda pair: self._urgency(*pair))[1]

    def _by_urgency(self) -> list[_Band[Item]]:
        bands = self._bands
        if len(bands) == 1:
            return list(bands.values())
        ranked = sorted(bands.items(), key=lambda pair: self._urgency(*pair), reverse=True)
        return [band for _, band in ranked]

    def _leave(self, waiting: Waiting[Item]) -> None:
        item = waiting.item
        assert item is not None, "an item leaves once"
        waiting.item = None
        del self._waiting[item]
        self.rows -= waiting.rows
        self.payload_bytes -= waiting.payload_bytes
        left = self._rows_of[waiting.group] - waiting.rows
        if left:
            self._rows_of[waiting.group] = left
        else:
            del self._rows_of[waiting.group]
        band = self._bands[waiting.priority]
        del band.arrivals[item]
        if not band.arrivals:
            del self._bands[waiting.priority]
            return
        share = band.shares[waiting.tenant_id]
        share.live -= 1
        share.dead += 1
        if share.live:
            share.forget_dead()
        else:
            del band.shares[waiting.tenant_id]
            band.order.remove(share)
            if share.credit < 0:
                band.debts[waiting.tenant_id] = share.credit
