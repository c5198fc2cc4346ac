"""Which models may be in memory, and which leave. Pure: the caller says what time it is and does the work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

_SURPLUS_S = 10.0
"""Calls that go on for so long without a want are neither stragglers nor the first ones after a rest, upon which
gateways want the model again: they know better than to want it here."""


@dataclass(slots=True)
class _Resident:
    memory_bytes: int
    loaded_at: float
    used_at: float
    unwanted_call_at: float | None = None
    """When the first call came since nobody wants it."""


class Residency:
    """Accounts for models in memory.

    A model leaves only when nobody wants it, no call uses it, and it has stayed a minimum time; of those, the least
    recently used goes first. One that is called though nobody has wanted it for a while is surplus: there are enough
    replicas of it elsewhere. It leaves too, and finishes the calls that it has. All times are seconds of one monotonic
    clock.

    Args:
        bytes_max: Memory that models may take together.
        stay_min_s: How long a model stays at least, so that two models don't push each other out in turns.
        idle_max_s: How long a model stays without a call when nothing needs its memory.

    Attributes:
        bytes_used: What models in memory take together.
        called_at: When the last call of any model came; None when none has come.
    """

    def __init__(self, *, bytes_max: int, stay_min_s: float, idle_max_s: float) -> None:
        self.bytes_max = bytes_max
        self._stay_min_s = stay_min_s
        self._idle_max_s = idle_max_s
        self._residents: dict[str, _Resident] = {}
        self._wanted_until: dict[str, float] = {}
        self.bytes_used = 0
        self.called_at: float | None = None

    def want(self, uid: str, until: float) -> None:
        """Notes that someone wants the model up to a time; a longer want that is noted already stays."""
        self._wanted_until[uid] = max(until, self._wanted_until.get(uid, until))
        resident = self._residents.get(uid)
        if resident is not None:
            resident.unwanted_call_at = None

    def withdraw(self, uid: str) -> None:
        """Forgets wants for the model."""
        self._wanted_until.pop(uid, None)

    def wanted(self, uid: str, now: float) -> bool:
        """Whether a want for the model lives."""
        return self._wanted_until.get(uid, now) > now

    def add(self, uid: str, memory_bytes: int, now: float) -> None:
        """Notes that a model is in memory."""
        self.remove(uid)
        self._residents[uid] = _Resident(memory_bytes, now, now)
        self.bytes_used += memory_bytes

    def measured(self, uid: str, memory_bytes: int) -> None:
        """Notes what a model in memory takes by now."""
        resident = self._residents[uid]
        self.bytes_used += memory_bytes - resident.memory_bytes
        resident.memory_bytes = memory_bytes

    def remove(self, uid: str) -> None:
        """Notes that a model is no longer in memory."""
        resident = self._residents.pop(uid, None)
        if resident is not None:
            self.bytes_used -= resident.memory_bytes

    def touch(self, uid: str, now: float) -> None:
        """Notes that a call uses the model."""
        self.called_at = now
        resident = self._residents.get(uid)
        if resident is not None:
            resident.used_at = now
            if resident.unwanted_call_at is None and self._wanted_until.get(uid, now) < now:
                resident.unwanted_call_at = now

    def evict_for(self, needed_bytes: int, now: float, busy: Collection[str]) -> list[str] | None:
        """The models that must leave so that `needed_bytes` more fit, least recently used first.

        Returns:
            None when no choice makes enough room.
        """
        surplus = self.bytes_used + needed_bytes - self.bytes_max
        chosen: list[str] = []
        for uid, resident in sorted(self._residents.items(), key=lambda pair: pair[1].used_at):
            if surplus <= 0:
                break
            if self._may_leave(uid, resident, now, busy):
                chosen.append(uid)
                surplus -= resident.memory_bytes
        return chosen if surplus <= 0 else None

    def idle_s(self, uid: str, now: float) -> float:
        """Time since the last call of a model in memory, or since its load when none has come."""
        return now - self._residents[uid].used_at

    def surplus(self, now: float) -> list[str]:
        """The models that leave because they are used where nobody wants them."""
        return [
            uid
            for uid, resident in self._residents.items()
            if resident.unwanted_call_at is not None
            and resident.used_at - resident.unwanted_call_at >= _SURPLUS_S
            and self._may_leave(uid, resident, now, ())
        ]

    def idle(self, now: float, busy: Collection[str]) -> list[str]:
        """The models that leave because nobody has used them for long. Also forgets wants for what is not here."""
        for uid in [uid for uid, until in self._wanted_until.items() if until <= now and uid not in self._residents]:
            del self._wanted_until[uid]
        return [
            uid
            for uid, resident in self._residents.items()
            if now - resident.used_at >= self._idle_max_s and self._may_leave(uid, resident, now, busy)
        ]

    def _may_leave(self, uid: str, resident: _Resident, now: float, busy: Collection[str]) -> bool:
        return uid not in busy and not self.wanted(uid, now) and now - resident.loaded_at >= self._stay_min_s
