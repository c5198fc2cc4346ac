"""Makes the ledger's partitions ahead of time and drops what is kept no longer."""

from __future__ import annotations

import asyncio

import structlog

from headrace_common.errors import HeadraceError
from headrace_common.postgres import Database
from headrace_quota.statements import statement

_EVERY_S = 3_600.0
_AGAIN_S = 60.0


class LedgerUpkeep:
    """Any number of processes may do it at once.

    Args:
        retention_days: Days for which rows and events are kept; hourly sums stay.
    """

    def __init__(self, *, database: Database, retention_days: int) -> None:
        self._database = database
        self._retention = {"retention_days": retention_days}
        self._log = structlog.stdlib.get_logger("ledger")

    async def once(self) -> None:
        """Makes, drops, forgets.

        Raises:
            HeadraceError: The database is out of reach.
        """
        async with self._database.service() as connection:
            await connection.execute(statement("make_ledger_partitions"))
        async with self._database.service() as connection:
            dropped = await (await connection.execute(statement("drop_ledger_partitions"), self._retention)).fetchone()
            await connection.execute(statement("forget_runner_events"), self._retention)
            await connection.execute(statement("forget_spools"), self._retention)
        if dropped is not None and dropped["partitions"]:
            self._log.info("days of the ledger dropped", days=dropped["partitions"])

    async def run(self) -> None:
        """Does it each hour until it is cancelled; a database out of reach is asked again after a minute."""
        while True:
            pause_s = _EVERY_S
            try:
                await self.once()
            except HeadraceError as error:
                self._log.warning("the ledger's partitions stay as they are for now", reason=error.reason)
                pause_s = _AGAIN_S
            await asyncio.sleep(pause_s)
