"""What services with a database have in common: they listen at once, wait for it, then serve until told to stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from headrace_common import catalogue
from headrace_common.errors import ConfigError, StorageUnavailable
from headrace_common.metrics import Metrics
from headrace_common.migrations import migrate
from headrace_common.ready_file import write_ready_file
from headrace_common.service_main import Stop
from headrace_common.settings import ServiceSettings
from headrace_common.tasks import TaskGuard

T = TypeVar("T")

_BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0)


class DatabaseService(Protocol):
    """One service process: `start()`, then `prepare()` until the database is there, then serve until `close()`."""

    metrics: Metrics

    async def start(self) -> str:
        """Listens and answers UNAVAILABLE; returns the bound address."""
        ...

    async def prepare(self) -> None:
        """Waits for the database and brings it up to date, however long that takes; cancelled to stop."""
        ...

    async def close(self) -> None:
        """Ends what was started; safe at any point."""
        ...


async def serve_until_stopped(
    service: DatabaseService, *, settings: ServiceSettings, stop: Stop, guard: TaskGuard
) -> None:
    """Runs the service until `stop` is requested or a task of `guard` dies, and closes it in any case."""
    try:
        address = await service.start()
        metrics_url = service.metrics.start(settings.metrics_address)
        if await _prepared(service, stop):
            write_ready_file(settings.ready_file, name=settings.service, grpc=address, metrics=metrics_url)
            await stop.wait_or_failure(guard)
    finally:
        await service.close()


async def migrate_when_reachable(url: str, *, service: str, versions_dir: Path) -> None:
    """Migrates the service's schema, trying again with growing pauses while the database is away or locked.

    Raises:
        InitializationError: MIGRATION_FAILED.
    """
    log = structlog.stdlib.get_logger(service)
    attempt = 0
    while True:
        try:
            return await asyncio.to_thread(migrate, url, service=service, versions_dir=versions_dir, wait_s=0.0)
        except StorageUnavailable as error:
            pause_s = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
            attempt += 1
            log.warning("waiting for PostgreSQL", reason=error.reason, attempt=attempt, retry_in_s=pause_s)
            await asyncio.sleep(pause_s)


def required(value: T | None, variable: str) -> T:
    """The value of a setting that this service can't do without.

    Raises:
        ConfigError: SETTING_MISSING.
    """
    if value is None:
        raise ConfigError(f"{variable} must be set", entry=catalogue.SETTING_MISSING, context={"variable": variable})
    return value


async def _prepared(service: DatabaseService, stop: Stop) -> bool:
    """Whether the service became ready before it was asked to stop."""
    preparing = asyncio.ensure_future(service.prepare())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not preparing.done():
            return False
        await preparing
        return True
    finally:
        stopping.cancel()
        preparing.cancel()
        await asyncio.wait({preparing, stopping})
