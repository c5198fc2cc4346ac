"""Restarts services of a running mesh one process after another, each only once the one before serves again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from headrace_cli.mesh.failure import MeshError


def restart_order(wanted: Sequence[str], members: Sequence[str]) -> list[str]:
    """The processes that are meant by names of services or processes, in the order of `members`; none means all.

    Args:
        wanted: For example `gateway`, or `runner-1`.
        members: Names of the processes that can be restarted.

    Raises:
        MeshError: nothing of the mesh has such a name.
    """
    services = {name: name.rstrip("0123456789").removesuffix("-") for name in members}
    for name in wanted:
        if name not in services and name not in services.values():
            known = ", ".join(dict.fromkeys(services.values()))
            raise MeshError(f"nothing here is called {name}; there are {known}, and of each its processes by name")
    return [name for name, service in services.items() if not wanted or name in wanted or service in wanted]


class RollingRestart:
    """One after another; at most one at a time.

    Args:
        members: Names of the processes that can be restarted, in the order in which they are.
        restart: Stops a process in order and returns once its successor serves.
        settled: Returns once the mesh is whole again, as it must be before the next process leaves.
    """

    def __init__(
        self,
        *,
        members: Sequence[str],
        restart: Callable[[str], Awaitable[None]],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._members = members
        self._restart = restart
        self._settled = settled
        self._busy = False

    async def run(self, wanted: Sequence[str]) -> AsyncIterator[tuple[str, bool]]:
        """Restart what is wanted; gives each process when it begins to leave (False) and when it serves again (True).

        Raises:
            MeshError: another restart is under way, an unknown name, or a process doesn't come back: then the ones
                after it are left alone.
        """
        if self._busy:
            raise MeshError("another restart is under way")
        order = restart_order(wanted, self._members)
        self._busy = True
        try:
            await self._settled()
            for name in order:
                yield name, False
                await self._restart(name)
                await self._settled()
                yield name, True
        finally:
            self._busy = False
