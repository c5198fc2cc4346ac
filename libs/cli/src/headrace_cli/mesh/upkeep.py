"""What a running mesh does for itself at intervals: publishes its process ids anew and keeps its logs bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from headrace_cli.mesh.failure import MeshError


class Upkeep:
    """Rounds of upkeep. One that fails is said and tried again: a full disk doesn't end a mesh that serves."""

    def __init__(
        self,
        *,
        publish: Callable[[], None],
        bound_logs: Callable[[], Sequence[str]],
        notice: Callable[[str], None],
    ) -> None:
        """`publish` raises MeshError when it can't; `bound_logs` returns what failed, in words."""
        self._publish = publish
        self._bound_logs = bound_logs
        self._notice = notice
        self._published = True
        self._said: set[str] = set()

    async def round(self, *, changed: bool) -> None:
        """Publish if something changed or the last attempt failed, then look at the logs. A failure is said once.

        Only the logs are looked at in a thread: a cancelled round must not publish what has been withdrawn by then.
        """
        failures: list[str] = []
        self._published = self._published and not changed
        if not self._published:
            try:
                self._publish()
                self._published = True
            except MeshError as error:
                failures.append(str(error))
        failures.extend(await asyncio.to_thread(self._bound_logs))
        for failure in failures:
            if failure not in self._said:
                self._notice(failure)
        self._said = set(failures)
