"""When requests that name no version go on to a newer one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from headrace_gateway.catalog import CatalogVersion


class Readiness(NamedTuple):
    """What runners report of one version.

    Attributes:
        loaded: Runners that have it loaded and take calls.
        eligible: Runners that could have it, no more than its manifest allows.
        failure: Why no eligible runner could load it; empty while one has it, loads it or has not tried.
    """

    loaded: int
    eligible: int
    failure: str = ""


class Verdict(NamedTuple):
    """What to do now.

    Attributes:
        done: Requests go to the target from now on.
        replicas: Replicas of the target that are wanted until then.
        failure: Why the target can't be loaded; empty while it may be.
    """

    done: bool
    replicas: int
    failure: str = ""


@dataclass(slots=True, kw_only=True)
class Cutover:
    """One change of what a name means: a model's newest version, or an alias that was moved. Pure.

    Requests stay with what serves until the target is loaded on as many runners; a target that can't have as many, or
    takes too long to, gets them once it has one. A target that fails to load gets none, so a broken upload harms
    nobody. What is not loaded itself is no reason to wait.

    Attributes:
        serving: What requests go to until it is done.
        target: What they go to then.
        since: When the change was made, by the monotonic clock.
        wait_max_s: How long the target may take to be loaded at scale.
    """

    serving: CatalogVersion
    target: CatalogVersion
    since: float
    wait_max_s: float

    def decide(self, now: float, serving: Readiness, target: Readiness) -> Verdict:
        """Decides from what runners report, so that all gateways decide the same."""
        at_scale = max(1, min(serving.loaded, target.eligible))
        late = now - self.since >= self.wait_max_s
        done = not serving.loaded or target.loaded >= at_scale or (late and target.loaded > 0)
        return Verdict(done, at_scale, "" if done else target.failure)
