"""Which rule of a model's schedule holds now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cronsim import CronSim, CronSimError

from headrace.registry.v1.manifest_pb2 import PlacementRule

_FIELDS = 5
_MINUTE = timedelta(minutes=1)


class Schedule:
    """The rules of one model. The one whose time came last holds; none does before the first time of any.

    The look-up is made anew only when a time has come, so asking every second costs nothing. Rules that can't be read,
    or whose time never comes, hold never.
    """

    def __init__(self, rules: Sequence[PlacementRule]) -> None:
        self._rules = rules
        self._looked_at: datetime | None = None
        self._holds: PlacementRule | None = None
        self._until: datetime | None = None

    def holding(self, now: datetime) -> PlacementRule | None:
        """The rule that holds at a time in UTC. Of two with the same time, the later one in the list."""
        if self._looked_at is None or now < self._looked_at or (self._until is not None and now >= self._until):
            self._look(now)
        return self._holds

    def _look(self, now: datetime) -> None:
        # Exactly at its time a rule holds, and a walk back begins one step before where it is told to begin.
        minute = now.replace(second=0, microsecond=0)
        began: datetime | None = None
        self._looked_at, self._holds, self._until = minute, None, None
        for rule in self._rules:
            last, following = _nearest(rule.cron, minute + _MINUTE, back=True), _nearest(rule.cron, minute, back=False)
            if last is not None and (began is None or last >= began):
                began, self._holds = last, rule
            if following is not None and (self._until is None or following < self._until):
                self._until = following


def _nearest(cron: str, moment: datetime, *, back: bool) -> datetime | None:
    """The next or last time of an expression that is not `moment` itself."""
    if len(cron.split()) != _FIELDS:
        return None
    try:
        return next(CronSim(cron, moment, reverse=back), None)
    except (CronSimError, OverflowError):
        return None
