"""Holds requests back from a newer version until runners have it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import structlog

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_common.clock import Clock
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.placement.cutover import SETTLE_S, Cutover, Readiness, Verdict
from headrace_gateway.mesh.placement.replica_bounds import replica_bounds
from headrace_gateway.mesh.placement.replica_schedules import ReplicaSchedules

Key = tuple[str, str]


class Cutovers:
    """Every model whose requests wait for a newer version. One event loop.

    A gateway that has just started knows neither what served before nor since when: it takes the time of registration
    and the older version that most runners have, so that it decides as the others do.

    Args:
        wait_max_s: How long a version may take to be loaded on as many runners as the one before.

    Attributes:
        done: Cutovers that were waited for and have come to their end.
        given_up: Those that did not: one of the versions left service, or was followed by another.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        directory: RunnerDirectory,
        schedules: ReplicaSchedules,
        clock: Clock,
        wait_max_s: float,
    ) -> None:
        self._catalog = catalog
        self._directory = directory
        self._schedules = schedules
        self._clock = clock
        self._wait_max_s = wait_max_s
        self._pending: dict[Key, tuple[Cutover, Verdict]] = {}
        self._seen_at: dict[str, float] = {}
        self._unsettled: dict[Key, CatalogVersion] = {}
        self._settled_at: float | None = None
        self.done = 0
        self.given_up = 0
        self._log = structlog.stdlib.get_logger("placement")
        catalog.add_renewal_listener(self._renewed)

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def failing(self) -> int:
        """Those whose newer version no runner could load."""
        return sum(bool(verdict.failure) for _, verdict in list(self._pending.values()))

    def wanted(self) -> Iterator[tuple[CatalogVersion, int]]:
        """The versions that are waited for, and on how many runners; with what serves meanwhile, if it was lost."""
        for cutover, verdict in self._pending.values():
            yield cutover.target, verdict.replicas
            # Not while a runner has it: where the two don't fit together, one that nobody calls has to make room.
            if not self._loaded(cutover.serving):
                yield cutover.serving, 1

    def refresh(self, loaded: Collection[str]) -> None:
        """Decides anew from what runners report now.

        Args:
            loaded: Uids of all versions that runners have loaded.
        """
        now = self._clock.monotonic()
        self._seen_at.update(dict.fromkeys(loaded, now))
        if len(self._seen_at) > len(loaded):
            self._seen_at = {uid: at for uid, at in self._seen_at.items() if now - at < SETTLE_S}
        if self._unsettled:
            self._settle()
        for key, (cutover, before) in list(self._pending.items()):
            self._decide(key, cutover, before)

    def _renewed(self, served: CatalogVersion | None, newest: CatalogVersion) -> None:
        key = (newest.tenant_id, newest.model)
        if self._pending.pop(key, None) is not None:
            self.given_up += 1
        if served is None:
            self._unsettled[key] = newest
        else:
            self._begin(served, newest, self._clock.monotonic())

    def _settle(self) -> None:
        """Looks at what was there before this gateway, until its runners have had time to come."""
        now, today = self._clock.monotonic(), self._clock.now()
        if self._settled_at is None and len(self._directory):
            self._settled_at = now + SETTLE_S
        for key, newest in list(self._unsettled.items()):
            versions = self._catalog.versions_of(*key)
            older = [version for version in versions if version.version < newest.version]
            if not older or versions[-1].uid != newest.uid:
                del self._unsettled[key]
                continue
            serving = max(older, key=lambda version: (self._loaded(version), version.version))
            age_s = (today - newest.proto.create_time.ToDatetime(today.tzinfo)).total_seconds()
            if self._loaded(serving) and (age_s < self._wait_max_s or self._readiness(newest).failure):
                del self._unsettled[key]
                self._begin(serving, newest, now - max(0.0, age_s))
        if self._settled_at is not None and now >= self._settled_at:
            self._unsettled.clear()

    def _begin(self, serving: CatalogVersion, target: CatalogVersion, since: float) -> None:
        cutover = Cutover(serving=serving, target=target, since=since, wait_max_s=self._wait_max_s)
        verdict = self._verdict(cutover)
        if verdict.done:
            self._catalog.move_on(serving.tenant_id, serving.model)
            return
        self._catalog.hold(serving)
        self._pending[serving.tenant_id, serving.model] = (cutover, verdict)
        self._say("requests stay with the version before until the new one is loaded", cutover)

    def _decide(self, key: Key, cutover: Cutover, before: Verdict) -> None:
        served = self._catalog.find(*key, "")
        if served is None or served.uid != cutover.serving.uid or self._catalog.by_uid(cutover.target.uid) is None:
            # One of the two has left service, and requests go on without waiting.
            del self._pending[key]
            self._catalog.move_on(*key)
            self.given_up += 1
            return
        verdict = self._verdict(cutover)
        if verdict.done:
            del self._pending[key]
            self._catalog.move_on(*key)
            self.done += 1
            self._say("requests go to the new version", cutover)
            return
        self._pending[key] = (cutover, verdict)
        if verdict.failure and verdict.failure != before.failure:
            self._say("requests stay with the version before: the new one can't be loaded", cutover, verdict.failure)

    def _verdict(self, cutover: Cutover) -> Verdict:
        now = self._clock.monotonic()
        return cutover.decide(now, self._readiness(cutover.serving), self._readiness(cutover.target))

    def _readiness(self, version: CatalogVersion) -> Readiness:
        now = self._clock.monotonic()
        eligible = self._directory.eligible(version)
        bounds = replica_bounds(version.proto.manifest, self._schedules.holding(version), len(eligible))
        failures = [self._directory.load_failure(session, version.uid) for session in eligible]
        known = [failure.message for failure in failures if failure is not None]
        tried = [session.models.get(version.uid) for session in eligible]
        loading = any(event is not None and event.state == gateway_pb2.MODEL_STATE_LOADING for event in tried)
        loaded = self._loaded(version)
        if loaded or loading or not eligible:
            self._seen_at[version.uid] = now
        failed = known[0] if known and not loaded and not loading else ""
        absent_s = now - self._seen_at.get(version.uid, -math.inf)
        return Readiness(loaded, min(len(eligible), bounds.most), failed, absent_s)

    def _loaded(self, version: CatalogVersion) -> int:
        return len(self._directory.replicas(version.uid))

    def _say(self, what: str, cutover: Cutover, failure: str = "") -> None:
        serving, target = cutover.serving, cutover.target
        self._log.info(
            what,
            tenant_id=target.tenant_id,
            model=target.model,
            version=target.version,
            version_before=serving.version,
            **({"failure": failure} if failure else {}),
        )
