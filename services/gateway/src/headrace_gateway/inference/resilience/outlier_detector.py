"""Which runners are sent away for a while because they do worse than the others."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

EJECT_MAX_S = 300.0
_SHARE_MAX = 0.5
_MODELS_MIN = 2
# After this long without another ejection a runner starts again with the shortest.
_FORGIVEN_S = 300.0


@dataclass(slots=True)
class RunnerRecord:
    """What is held against one runner.

    Attributes:
        row: Failures since its last good answer; `models` are the versions that they came from.
        own_row: Those of them that no model explains.
        ejections: How often it was ejected of late; `until` is when the present ejection ends, 0 while there is none.
        back_at: When the last ejection ended.
    """

    row: int = 0
    own_row: int = 0
    models: set[str] = field(default_factory=set[str])
    ejections: int = 0
    until: float = 0.0
    back_at: float = 0.0

    def succeeded(self) -> None:
        """It answered well. To be told only while `row` is not 0, which is what a call's path looks at."""
        self.row = self.own_row = 0
        self.models.clear()


class OutlierDetector:
    """Ejects a runner after failures in a row, or for silence, for a time that grows; never more than half of them.

    Failures of one model alone are the model's: its circuit breaker keeps calls away. They count against the runner
    when they come from two models or more, or when no model explains them. A runner that is back is on probation: its
    first failure ejects it again, its first good answer clears it. Pure: told the time; event loop only.
    Source: the outlier detection of Envoy.

    Args:
        failures: Failures in a row that eject.
        eject_s: How long the first ejection lasts; each one after it twice as long, up to five minutes.
    """

    def __init__(self, *, failures: int, eject_s: float) -> None:
        self._failures = failures
        self._eject_s = eject_s
        self._records: dict[str, RunnerRecord] = {}

    def record(self, runner: str) -> RunnerRecord:
        """A runner's record, made on first use."""
        found = self._records.get(runner)
        if found is None:
            found = self._records[runner] = RunnerRecord()
        return found

    def keep(self, runners: Container[str]) -> None:
        """Forgets the runners that are not among these."""
        for runner in [runner for runner in self._records if runner not in runners]:
            del self._records[runner]

    def failed(self, runner: str, version_uid: str, *, unexplained: bool) -> bool:
        """Counts a failure; says whether the runner has become an outlier by it.

        Args:
            runner: The runner.
            version_uid: The version whose call failed.
            unexplained: Whether no model explains the failure.
        """
        record = self.record(runner)
        record.row += 1
        record.own_row += unexplained
        record.models.add(version_uid)
        return record.own_row >= self._failures or (record.row >= self._failures and len(record.models) >= _MODELS_MIN)

    def eject(self, runner: str, *, runners: int, now: float) -> float | None:
        """Ejects a runner and returns for how long, or None when too few would be left.

        Args:
            runner: The runner.
            runners: How many are connected, ejected ones included.
            now: Reading of a monotonic clock.
        """
        record = self.record(runner)
        if record.until:
            return None
        away = sum(other.until > 0 for other in self._records.values())
        if away + 1 > runners * _SHARE_MAX:
            return None
        if now - record.back_at > _FORGIVEN_S:
            record.ejections = 0
        span_s = min(self._eject_s * 2**record.ejections, EJECT_MAX_S)
        record.ejections = min(record.ejections + 1, 16)
        record.until = now + span_s
        return span_s

    def returning(self, now: float) -> list[str]:
        """Ends the ejections whose time is over and returns their runners, which are on probation from now on."""
        back = [runner for runner, record in self._records.items() if record.until and now >= record.until]
        for runner in back:
            record = self._records[runner]
            record.until, record.back_at = 0.0, now
            record.row = record.own_row = self._failures - 1
        return back
