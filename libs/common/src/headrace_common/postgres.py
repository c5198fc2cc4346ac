"""PostgreSQL with row-level security: every transaction states its scope, every failure is typed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
import structlog
from psycopg import errors as pg
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from headrace_common import catalogue
from headrace_common.errors import ConfigError, HeadraceError, StorageError, StorageUnavailable

Connection = psycopg.AsyncConnection[DictRow]
SERVICE_SCOPE = "*"
_SERVICE = re.compile(r"[a-z][a-z0-9_]{0,40}")
_SCOPE: LiteralString = "SELECT set_config('headrace.tenant_id', %s, true)"


class Database:
    """A pool of connections that act as the role of one service, which owns nothing and sees only what policies show.

    Each `tenant(…)` or `service()` block is one transaction: committed at its end, rolled back by an exception.
    Rows are dicts. A connection whose block was cancelled is closed, never reused.

    Args:
        url: `postgresql://…`, of a user that is a member of the role.
        service: Gives the role (`headrace_<service>`) and the search path (`<service>`).
        connections_max: Size of the pool; one more caller waits `wait_s`, then gets DATABASE_UNAVAILABLE.
        statement_timeout_s: Longest single statement.
    """

    def __init__(
        self,
        *,
        url: str,
        service: str,
        connections_min: int = 1,
        connections_max: int = 10,
        statement_timeout_s: float = 10.0,
        lock_timeout_s: float = 5.0,
        wait_s: float = 5.0,
    ) -> None:
        self.statement_timeout_s = statement_timeout_s
        self._log = structlog.stdlib.get_logger("postgres")
        self._conninfo = service_conninfo(
            url, service=service, statement_timeout_s=statement_timeout_s, lock_timeout_s=lock_timeout_s
        )
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._conninfo,
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs={"row_factory": dict_row, "autocommit": True},
            min_size=connections_min,
            max_size=connections_max,
            timeout=wait_s,
            max_waiting=connections_max * 20,
            max_idle=300.0,
            reconnect_timeout=30.0,
            check=_check,
            open=False,
            name=f"headrace_{service}",
        )

    async def open(self, *, wait_s: float = 30.0) -> None:
        """Connects.

        Raises:
            StorageUnavailable: DATABASE_UNAVAILABLE: no connection within `wait_s`.
        """
        try:
            await self._pool.open()
            await self._pool.wait(timeout=wait_s)
        except (PoolTimeout, psycopg.Error) as error:
            await self._pool.close()
            raise self._mapped(error) from None

    async def close(self) -> None:
        """Closes every connection; running transactions are rolled back. Safe to call twice."""
        await self._pool.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def tenant(self, tenant_id: str) -> AbstractAsyncContextManager[Connection]:
        """One transaction that sees and writes only this tenant's rows.

        Raises:
            ValueError: An empty id, or the service scope: those would be mistakes of ours, not a caller's.
        """
        if not tenant_id or tenant_id == SERVICE_SCOPE:
            raise ValueError("a tenant transaction needs a tenant")
        return self._transaction(tenant_id, snapshot=False)

    def service(self, *, snapshot: bool = False) -> AbstractAsyncContextManager[Connection]:
        """One transaction that sees all tenants. With `snapshot` every statement sees the same state, read only."""
        return self._transaction(SERVICE_SCOPE, snapshot=snapshot)

    async def healthy(self) -> bool:
        """Whether a trivial statement succeeds now."""
        try:
            async with self.service() as connection:
                await connection.execute("SELECT 1")
        except HeadraceError:
            return False
        return True

    async def listen_connection(self) -> Connection:
        """A connection outside the pool, in autocommit mode, for LISTEN. The caller closes it.

        Raises:
            StorageUnavailable: DATABASE_UNAVAILABLE.
        """
        try:
            return await psycopg.AsyncConnection[DictRow].connect(
                self._conninfo, row_factory=dict_row, autocommit=True, connect_timeout=5
            )
        except psycopg.Error as error:
            raise self._mapped(error) from None

    @asynccontextmanager
    async def _transaction(self, scope: str, *, snapshot: bool) -> AsyncGenerator[Connection]:
        try:
            connection = await self._pool.getconn()
        except (PoolTimeout, TooManyRequests, PoolClosed, psycopg.Error) as error:
            raise self._mapped(error) from None
        try:
            async with connection.transaction():
                if snapshot:
                    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                await connection.execute(_SCOPE, (scope,))
                yield connection
        except psycopg.Error as error:
            raise self._mapped(error) from None
        except (asyncio.CancelledError, GeneratorExit):
            await connection.close()
            raise
        finally:
            # Shielded: a second cancel here would lose the pool a place for ever.
            await asyncio.shield(self._pool.putconn(connection))

    def _mapped(self, error: Exception) -> StorageError:
        return storage_error(error, statement_timeout_s=self.statement_timeout_s, log=self._log)


async def _check(connection: Connection) -> None:
    """One empty round trip before a connection is handed out: after a restart of the server the pool heals at once."""
    await connection.execute("")


def service_conninfo(url: str, *, service: str, statement_timeout_s: float, lock_timeout_s: float) -> str:
    """Connection parameters that take on the service's role and bounds from the first statement on.

    Raises:
        ConfigError: SETTING_INVALID: the URL can't be parsed, or the service's name isn't plain.
    """
    if not _SERVICE.fullmatch(service):
        raise ConfigError(f"{service!r} can't name a schema")
    settings = {
        "role": f"headrace_{service}",
        "search_path": service,
        "statement_timeout": f"{int(statement_timeout_s * 1_000)}ms",
        "lock_timeout": f"{int(lock_timeout_s * 1_000)}ms",
        "idle_in_transaction_session_timeout": "60000ms",
        "timezone": "UTC",
    }
    options = " ".join(f"-c {key}={value}" for key, value in settings.items())
    try:
        return make_conninfo(
            url,
            options=options,
            application_name=f"headrace-{service}",
            connect_timeout=5,
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=15_000,
        )
    except psycopg.Error:
        raise ConfigError(
            "HEADRACE_POSTGRES_URL is not a PostgreSQL URL", context={"variable": "HEADRACE_POSTGRES_URL"}
        ) from None


def storage_error(error: Exception, *, statement_timeout_s: float, log: Any) -> StorageError:
    """The typed failure for what psycopg raised. The database's own text goes to the log, never to a caller."""
    if isinstance(error, pg.IntegrityError):
        name = error.diag.constraint_name or ""
        return StorageError(
            "the change contradicts what is stored",
            entry=catalogue.DATABASE_CONSTRAINT,
            context={"constraint": name},
        )
    if isinstance(error, pg.SerializationFailure | pg.DeadlockDetected | pg.LockNotAvailable):
        return StorageUnavailable("another transaction was in the way", entry=catalogue.DATABASE_CONFLICT)
    if isinstance(error, pg.QueryCanceled):
        log.warning("statement cancelled by its time limit", limit_s=statement_timeout_s)
        return StorageUnavailable(
            "the database took too long", entry=catalogue.DATABASE_TIMEOUT, context={"limit_s": statement_timeout_s}
        )
    if isinstance(error, pg.DiskFull):
        log.error("database out of space", exc_info=error)
        return StorageError("no space is left in the database", entry=catalogue.DISK_FULL)
    unreachable = isinstance(error, PoolTimeout | PoolClosed | TooManyRequests | psycopg.InterfaceError) or (
        isinstance(error, psycopg.OperationalError) and not isinstance(error, pg.ProgramLimitExceeded)
    )
    if unreachable:
        log.error("database unavailable", error=type(error).__name__, detail=str(error).strip())
        return StorageUnavailable("the database can't be reached", entry=catalogue.DATABASE_UNAVAILABLE)
    log.error("database failed", exc_info=error)
    return StorageError("the database failed", entry=catalogue.DATABASE_FAILED)
