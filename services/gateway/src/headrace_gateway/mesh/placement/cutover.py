"""When requests that name no version go on to a newer one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from headrace_gateway.catalog import CatalogVersion

SETTLE_S = 5.0
"""How long runners must be there without a version before that is an answer: they restart, and fall silent."""


class Readiness(NamedTuple):
    """What runners report of one version.

    Attributes:
        loaded: Runners that have it loaded and take calls.
        eligible: Runners that could have it, no more than its manifest allows.
        failure: Why no eligible runner could load it; empty while one has it, loads it or has not tried.
        absent_s: For how long there have been eligible runners of which none has it or loads it.
    """

    loaded: int
    eligible: int
    failure: str = ""
    absent_s: float = 0.0


class Verdict(NamedTuple):
    """What to do now.

    Attributes:
        done: Requests go to the target from now on.
        replicas: Replicas of the target that are wanted until then.
        failure: Why the target could not be loaded, when that was last tried; empty while nothing speaks against it.
    """

    done: bool
    replicas: int
    failure: str = ""


@dataclass(slots=True, kw_only=True)
class Cutover:
    """One change of what a name means: a model's newest version, or an alias that was moved. No I/O, no clock.

    Requests stay with what serves until the target is loaded on as many runners; a target that can't have as many, or
    takes too long to, gets them once it has one. What has left memory for good is no reason to wait. A target that has
    failed to load gets none before it is loaded, so a broken upload harms nobody, also when runners come and go.

    Attributes:
        serving: What requests go to until it is done.
        target: What they go to then.
        since: When the change was made, by the monotonic clock.
        wait_max_s: How long the target may take to be loaded at scale.
        failure: How the target failed last; kept until it is loaded, since a runner that restarts knows nothing of it.
    """

    serving: CatalogVersion
    target: CatalogVersion
    since: float
    wait_max_s: float
    failure: str = ""

    def decide(self, now: float, serving: Readiness, target: Readiness) -> Verdict:
        """Decides from what runners report, so that all gateways decide the same."""
        self.failure = "" if target.loaded else target.failure or self.failure
        at_scale = max(1, min(serving.loaded, target.eligible))
        late = now - self.since >= self.wait_max_s
        loaded = target.loaded >= at_scale or (late and target.loaded > 0)
        gone = not serving.loaded and serving.absent_s >= SETTLE_S and not self.failure
        return Verdict(loaded or gone, at_scale, self.failure)
