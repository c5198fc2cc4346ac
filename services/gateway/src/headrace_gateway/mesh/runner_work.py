"""How much work a runner has, and what calls of each version take there: what runners are compared by."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.runner.internal.v1 import mesh_pb2

FADE_HALF_LIFE_S = 10.0
"""Of what was measured and is not measured any more, because no call goes there."""
_WEIGHT = 0.1
# Until a call has been answered: long enough that calls are spread.
_COST_UNKNOWN_S = 0.1


@dataclass(slots=True, eq=False)
class VersionWork:
    """One version on one runner, as this gateway knows it.

    Attributes:
        slots: Calls of it that the runner executes at the same time.
        ready_at: Reading of the monotonic clock when it was loaded, or when the runner took calls again.
        in_flight: This gateway's calls without a terminal answer; `places` is how many slots they take.
        others: Other gateways' calls, by the last heartbeat.
        cost_s: Time that one more call takes, its execution shared out over the slots: a guess until one was answered.
        latency_s: Moving average from sending to answer.
        fresh: How much is to be made of `cost_s` and `latency_s`: 0 before the first answer, 1 with each, and less and
            less while none comes. Multiplied with them it lets what once was slow be tried again.
    """

    slots: int = 1
    ready_at: float = 0.0
    loaded: bool = False
    in_flight: int = 0
    places: int = 0
    peak: int = 0
    peak_before: int = 0
    others: int = 0
    cost_s: float = _COST_UNKNOWN_S
    latency_s: float = 0.0
    fresh: float = 0.0
    answers: int = 0

    def heard(self, reported: int | None, fade: float) -> None:
        """Takes the runner's count of calls over all gateways, if it told one, and lets fade what nobody measured."""
        self.others = 0 if reported is None else max(0, reported - max(self.peak, self.peak_before))
        self.peak, self.peak_before = self.in_flight, self.peak
        if not self.answers and not self.in_flight:
            self.fresh *= fade
        self.answers = 0


class RunnerWork:
    """The calls of one session by version. Pure; one event loop.

    A heartbeat tells how many calls the runner has of all gateways. Ours are taken off at their highest count since the
    heartbeat before the last one: it was sent in that time, so calls of ours never pass for another gateway's, and
    those of others are told too low rather than too high.

    Attributes:
        in_flight: This gateway's calls without a terminal answer.
        pending_s: Time that the runner needs for all calls that it has, other gateways' included.
    """

    __slots__ = ("_heard_at", "_peak", "_peak_before", "_versions", "in_flight", "pending_s")

    def __init__(self, *, now: float) -> None:
        self.in_flight = 0
        self.pending_s = 0.0
        self._peak = 0
        self._peak_before = 0
        self._heard_at = now
        self._versions: dict[str, VersionWork] = {}

    def version(self, uid: str) -> VersionWork:
        """What is known of a version here. One that is not loaded is forgotten when its calls have ended."""
        found = self._versions.get(uid)
        if found is None:
            found = self._versions[uid] = VersionWork()
        return found

    def loaded(self, uid: str, slots: int, now: float) -> None:
        """The version takes calls; does nothing when it did already."""
        version = self.version(uid)
        if not version.loaded:
            version.loaded = True
            version.slots = max(1, slots)
            version.ready_at = now
            self._set_cost(version, _COST_UNKNOWN_S / version.slots)

    def unloaded(self, uid: str) -> None:
        """The version takes no calls any more, and is another one when it is loaded again."""
        version = self._versions.get(uid)
        if version is not None:
            version.loaded = False
            version.fresh = 0.0

    def restored(self, now: float) -> None:
        """The runner takes calls again: each version has to warm up."""
        for version in self._versions.values():
            version.ready_at = now

    def began(self, uid: str, places: int = 1) -> None:
        """A call was sent that takes so many slots."""
        version = self._versions.get(uid) or self.version(uid)
        version.in_flight += 1
        version.places += places
        if version.in_flight > version.peak:
            version.peak = version.in_flight
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak = self.in_flight
        self.pending_s += version.cost_s

    def ended(self, uid: str, places: int = 1) -> None:
        """A call had its terminal answer, or the session has."""
        version = self._versions[uid]
        version.in_flight -= 1
        version.places -= places
        self.in_flight -= 1
        self.pending_s -= version.cost_s

    def answered(self, uid: str, latency_s: float, compute_s: float) -> None:
        """Folds an answered call into the averages; what has faded counts for less.

        Args:
            uid: The version.
            latency_s: Sending to answer.
            compute_s: The call's share of its execution.
        """
        version = self._versions.get(uid)
        if version is None or not version.loaded:
            return
        weight = max(_WEIGHT, 1.0 - version.fresh)
        version.answers += 1
        version.fresh = 1.0
        version.latency_s += weight * (latency_s - version.latency_s)
        self._set_cost(version, version.cost_s + weight * (compute_s / version.slots - version.cost_s))

    def heard(self, heartbeat: mesh_pb2.Heartbeat, now: float) -> None:
        """Takes what the runner says of all gateways' calls. One that tells no versions' counts tells a total."""
        fade = 0.5 ** ((now - self._heard_at) / FADE_HALF_LIFE_S)
        self._heard_at = now
        reported = {model.version_uid: model.in_flight for model in heartbeat.models}
        for uid, version in list(self._versions.items()):
            version.heard(reported.get(uid), fade)
            if not version.loaded and not version.in_flight:
                del self._versions[uid]
        others_s = sum(version.others * self._cost_s(version) for version in self._versions.values())
        if not reported:
            others_s = max(0, heartbeat.in_flight - max(self._peak, self._peak_before)) * self._usual_cost_s()
        self._peak, self._peak_before = self.in_flight, self._peak
        # Anew each time, so that rounding doesn't add up.
        self.pending_s = others_s + sum(version.in_flight * version.cost_s for version in self._versions.values())

    def _cost_s(self, version: VersionWork) -> float:
        """Of one that only other gateways call, what others take here."""
        return version.cost_s if version.fresh else self._usual_cost_s()

    def _usual_cost_s(self) -> float:
        measured = [version.cost_s for version in self._versions.values() if version.fresh]
        return sum(measured) / len(measured) if measured else _COST_UNKNOWN_S

    def _set_cost(self, version: VersionWork, cost_s: float) -> None:
        self.pending_s += version.in_flight * (cost_s - version.cost_s)
        version.cost_s = cost_s
