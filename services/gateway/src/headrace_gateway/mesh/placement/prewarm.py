"""Models that an operator wants in memory always."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from headrace_gateway.catalog import Catalog, CatalogVersion

NAMED = re.compile(r"(?P<tenant>[^/:]+)/(?P<model>[^/:]+)(:(?P<version>[1-9][0-9]{0,18}))?")


class PrewarmList:
    """The list, and the versions that it means now: a name without a version means what requests without one get.

    Args:
        names: `tenant/model` or `tenant/model:version`, each one matching `NAMED`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [match.groupdict("") for match in map(NAMED.fullmatch, names) if match is not None]
        self._uids: set[str] = set()

    def __contains__(self, uid: object) -> bool:
        return uid in self._uids

    def find(self, catalog: Catalog) -> Iterator[CatalogVersion]:
        """The versions of the list that are registered."""
        self._uids.clear()
        for name in self._names:
            version = catalog.find(name["tenant"], name["model"], name["version"])
            if version is not None:
                self._uids.add(version.uid)
                yield version
