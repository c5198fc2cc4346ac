"""A gateway's accounts: its spool, the ones that dead gateways left, and the way to quota."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import grpc.aio
import structlog

from headrace.quota.internal.v1.usage_ingest_pb2 import KeyUse, SpoolRecord
from headrace.quota.v1.usage_pb2 import REQUEST_STATUS_ABANDONED, RunnerEvent
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import ConfigError, HeadraceError
from headrace_common.tasks import TaskGuard
from headrace_gateway.accounting import spool_folder
from headrace_gateway.accounting.call_accounts import Book, CallAccounts
from headrace_gateway.accounting.replay import UnknownSpoolError, replayed
from headrace_gateway.accounting.shipper import Metadata, Shipper
from headrace_gateway.accounting.spool import Spool
from headrace_gateway.accounting.spool_folder import SpoolFolder

_TICK_S = 0.1
_REFRESH_S = 1.0
_ADOPT_S = 15.0


class Accounting:
    """Owns the spools. Build it inside a running event loop.

    Args:
        parent: Folder of the spools of all gateways of this machine, or of this one alone.
        bytes_max: Of the own spool.
        book: What tenants may use.
        aggregates: Whether the rows of a tenant's streams are summed up.
        channel: To quota; stays yours. `metadata` gives the pairs for each stream.
        replaced: Called with a gateway whose spool was adopted, because its process has ended.
        random: Spreads reconnects.

    Attributes:
        calls: Where calls are accounted for.
        spool: What this process writes.
        adopted: Spools of processes that have ended, until quota has them.

    Raises:
        ConfigError: SETTING_INVALID: the folder can't be used.
    """

    def __init__(
        self,
        *,
        parent: Path,
        bytes_max: int,
        gateway_id: str,
        book: Book,
        aggregates: Callable[[str], bool],
        channel: grpc.aio.Channel,
        metadata: Metadata,
        replaced: Callable[[str], None],
        clock: Clock,
        random: Random,
    ) -> None:
        self._parent = parent
        self._bytes_max = bytes_max
        self._channel = channel
        self._metadata = metadata
        self._replaced = replaced
        self._random = random
        self._log = structlog.stdlib.get_logger("spool")
        try:
            folder = SpoolFolder.new(parent, gateway_id=gateway_id)
            self.spool = Spool(folder=folder, left=None, bytes_max=bytes_max)
        except OSError as error:
            raise ConfigError(
                f"the folder for usage records can't be used: {error.strerror}; set HEADRACE_GATEWAY_SPOOL_DIR or "
                "HEADRACE_STATE_DIR",
                context={"variable": "HEADRACE_GATEWAY_SPOOL_DIR"},
            ) from None
        self.calls = CallAccounts(log=self.spool, book=book, aggregates=aggregates, clock=clock)
        self.shipper = self._shipper(self.spool)
        self.adopted: list[Shipper] = []
        self._shipping: asyncio.Task[None] | None = None

    def start(self, tasks: TaskGuard) -> None:
        """Ships from now on, and looks for spools whose processes have ended."""
        self._shipping = tasks.spawn(self.shipper.run(), name="usage shipper")
        tasks.spawn(self._keep_ready(), name="spool")
        tasks.spawn(self._adopt(tasks), name="spool adoption")

    def tell_runner(self, event: RunnerEvent) -> None:
        """Something happened to a runner. While the spool is full, that is forgotten and counted."""
        with suppress(HeadraceError):
            self.spool.tell(SpoolRecord(runner=event))

    def tell_key_use(self, use: KeyUse) -> None:
        """A key was used; as `tell_runner`."""
        with suppress(HeadraceError):
            self.spool.tell(SpoolRecord(key_use=use))

    async def close(self, within_s: float) -> None:
        """No call is open any more: sends what is left, for a bounded time. What isn't sent stays for the next start.

        To be called before the tasks are cancelled, and `release` after that.
        """
        self.shipper.end()
        if self._shipping is not None:
            await asyncio.wait((self._shipping,), timeout=within_s)

    def release(self) -> None:
        """Lets go of all files, after the tasks have ended; an own spool that quota has whole is removed."""
        shipping = self._shipping
        sent = shipping is not None and not shipping.cancelled() and shipping.exception() is None
        self.spool.close(empty=sent and not self.spool.open_calls and not self.spool.waits)
        for shipper in self.adopted:
            shipper.spool.close(empty=False)

    async def _keep_ready(self) -> None:
        refresh_in_s = _REFRESH_S
        while True:
            await asyncio.sleep(_TICK_S)
            self.spool.prepare()
            refresh_in_s -= _TICK_S
            if refresh_in_s <= 0:
                refresh_in_s = _REFRESH_S
                self.calls.refresh()

    async def _adopt(self, tasks: TaskGuard) -> None:
        while True:
            try:
                left = await asyncio.to_thread(spool_folder.abandoned, self._parent, unread=self._tell_unread)
            except OSError as error:
                self._tell_unread(self._parent, error)
                left = []
            for folder in left:
                try:
                    await self._take_over(folder, tasks)
                except (OSError, UnknownSpoolError) as error:
                    # It stays as it is, and is tried again; others must not wait for it.
                    self._tell_unread(folder.path, error)
            await asyncio.sleep(_ADOPT_S)

    def _tell_unread(self, path: Path, error: Exception) -> None:
        why = error.strerror if isinstance(error, OSError) else str(error)
        self._log.error("spools of a process that has ended can't be taken over", folder=str(path), error=why)

    async def _take_over(self, folder: SpoolFolder, tasks: TaskGuard) -> None:
        try:
            left = await asyncio.to_thread(replayed, folder.path)
            spool = Spool(folder=folder, left=left, bytes_max=self._bytes_max)
            spool.abandon(left, status=REQUEST_STATUS_ABANDONED, reason=catalogue.CALL_ABANDONED.reason)
        except BaseException:
            folder.release()
            raise
        self._log.info("adopted a spool", gateway=folder.gateway_id, records=left.events, abandoned=len(left.open))
        self._replaced(folder.gateway_id)
        shipper = self._shipper(spool)
        shipper.end()
        self.adopted.append(shipper)
        tasks.spawn(self._ship_adopted(shipper), name="adopted usage")

    async def _ship_adopted(self, shipper: Shipper) -> None:
        await shipper.run()
        self.adopted.remove(shipper)
        shipper.spool.close(empty=True)

    def _shipper(self, spool: Spool) -> Shipper:
        return Shipper(spool=spool, channel=self._channel, metadata=self._metadata, random=self._random)
