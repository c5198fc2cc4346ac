"""Each version's eligible runners in their order, kept while the runners stay the same."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.placement.ranking import rank
from headrace_gateway.mesh.runner_session import RunnerSession


class RankedRunners:
    """Orders runners for versions. Models come and go all the time, runners seldom: only then is it done anew."""

    def __init__(self, *, directory: RunnerDirectory) -> None:
        self._directory = directory
        self._runners: list[tuple[str, bool, frozenset[str]]] = []
        self._rules = 0
        self._ranked: dict[str, list[RunnerSession]] = {}

    def look(self) -> None:
        """Forgets every order if a runner has come, gone, or changed what it can do, or whom runners may serve."""
        runners = [(session.token, session.takes_calls, session.backends) for session in self._directory]
        if runners != self._runners or self._rules != self._directory.rules:
            self._runners, self._rules = runners, self._directory.rules
            self._ranked.clear()

    def of(self, version: CatalogVersion) -> Sequence[RunnerSession]:
        """Runners that could have the version, the best first, as of the last look."""
        ranked = self._ranked.get(version.uid)
        if ranked is None:
            order = list(version.proto.manifest.device_types)
            ranked = self._ranked[version.uid] = sorted(
                self._directory.eligible(version),
                key=lambda session: rank(
                    version.uid,
                    preference=_place_of(session.hello.device.type, order),
                    name=session.hello.runner_name,
                    id=session.id,
                ),
            )
        return ranked

    def forget(self, uid: str) -> None:
        """The version is not wanted any more."""
        self._ranked.pop(uid, None)


def _place_of(device_type: str, order: Sequence[str]) -> int:
    return order.index(device_type) if device_type in order else len(order)
