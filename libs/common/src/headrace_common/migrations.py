"""Schema migrations: alembic keeps the order, plain SQL files hold the statements."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
import structlog
from alembic import command, op
from alembic.config import Config
from alembic.util.exc import CommandError
from psycopg import errors as pg
from psycopg import sql
from sqlalchemy.exc import SQLAlchemyError

from headrace_common import catalogue
from headrace_common.errors import InitializationError, StorageUnavailable

_LOCK_WAIT_MIN_S = 2.0
_ENVIRONMENT = Path(__file__).parent / "migration_environment"
_SERVICE = re.compile(r"[a-z][a-z0-9_]{0,40}")
_ONE_AT_A_TIME = threading.Lock()
# alembic's `op` and `context` are module-wide, so one process migrates one schema at a time.

_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS {schema};
GRANT USAGE ON SCHEMA {schema} TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {role};
-- For policies: USING ({schema}.in_scope(tenant_id)). Without a scope nothing is visible.
CREATE OR REPLACE FUNCTION {schema}.in_scope(tenant_id text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN current_setting('headrace.tenant_id', true) IN (tenant_id, '*');
"""


def migrate(url: str, *, service: str, versions_dir: Path, wait_s: float = 60.0) -> None:
    """Brings one service's schema up to date. Blocking: call it with `asyncio.to_thread`.

    Creates the schema `<service>`, the role `headrace_<service>` (NOLOGIN, NOSUPERUSER, NOBYPASSRLS, owner of nothing)
    and `<service>.in_scope(text)` for policies, then applies the missing revisions of `versions_dir` in one
    transaction: all or none. Processes that start at once take turns by an advisory lock. Tables belong to the URL's
    user, so they need `ENABLE` and `FORCE ROW LEVEL SECURITY`.

    Neither that lock nor one on a table is waited for longer than `wait_s` or 2 s: a process that is told to stop can't
    end before this returns.

    Raises:
        StorageUnavailable: DATABASE_UNAVAILABLE (UNAVAILABLE): no connection within `wait_s`; DATABASE_CONFLICT
            (ABORTED): another process holds a lock for longer. Nothing was applied; repeat it.
        InitializationError: MIGRATION_FAILED (INTERNAL): a revision can't be applied, or the database is newer than us.
    """
    if not _SERVICE.fullmatch(service):
        raise ValueError(f"{service!r} can't name a schema")
    log = structlog.stdlib.get_logger("migrations")
    lock_wait_ms = str(int(max(wait_s, _LOCK_WAIT_MIN_S) * 1_000))
    with _ONE_AT_A_TIME, _connect(url, wait_s) as lock_holder:
        try:
            lock_holder.execute("SELECT set_config('lock_timeout', %s, false)", (lock_wait_ms,))
            lock_holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"headrace.{service}",))
            _ensure_role(lock_holder, service)
            _upgrade(url, service, versions_dir, lock_wait_ms)
        except (psycopg.Error, SQLAlchemyError, CommandError) as error:
            if isinstance(error, pg.LockNotAvailable) or isinstance(error.__cause__, pg.LockNotAvailable):
                raise StorageUnavailable(
                    f"another process holds locks that the migration of {service} needs",
                    entry=catalogue.DATABASE_CONFLICT,
                ) from None
            log.exception("migration failed", schema=service)
            raise InitializationError(
                f"the schema of {service} can't be migrated",
                entry=catalogue.MIGRATION_FAILED,
                context={"service": service},
            ) from None
    log.info("schema is current", schema=service)


def sql_revision(module_file: str) -> Callable[[], None]:
    """The `upgrade` of a revision module: runs the SQL file beside it, of the same name.

    A revision is two files, `0001_tenants.py` and `0001_tenants.sql`, the first one being::

        from headrace_common.migrations import sql_revision

        revision = "0001"
        down_revision = None
        upgrade = sql_revision(__file__)

    The text goes to the driver as it is, so `%` and `$$` need no escaping and one file may hold many statements.
    """
    path = Path(module_file).with_suffix(".sql")

    def upgrade() -> None:
        bind: Any = op.get_bind()
        connection: psycopg.Connection[Any] = bind.connection.driver_connection
        connection.execute(path.read_bytes())

    return upgrade


def _upgrade(url: str, service: str, versions_dir: Path, lock_wait_ms: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_ENVIRONMENT).replace("%", "%%"))
    config.set_main_option("version_locations", str(versions_dir).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url, connect_timeout=5), poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection, connection.begin():
        names = {"schema": sql.Identifier(service), "role": sql.Identifier(f"headrace_{service}")}
        driver: Any = connection.connection.driver_connection
        driver.execute("SELECT set_config('lock_timeout', %s, true)", (lock_wait_ms,))
        driver.execute(sql.SQL(_SCHEMA).format(**names))
        config.attributes["connection"] = connection
        config.attributes["schema"] = service
        command.upgrade(config, "head")
    engine.dispose()


def _ensure_role(connection: psycopg.Connection[Any], service: str) -> None:
    """Roles belong to the whole cluster, the lock to one database: another database's start may win any step."""
    role = f"headrace_{service}"
    # Since 16 who creates a role is its member without the right to act as it.
    privilege = "SET" if connection.info.server_version >= 160_000 else "MEMBER"
    for attempt in range(20):
        try:
            exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            if exists is None:
                connection.execute(
                    sql.SQL("CREATE ROLE {} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE").format(
                        sql.Identifier(role)
                    )
                )
            member = connection.execute("SELECT pg_has_role(current_user, %s, %s)", (role, privilege)).fetchone()
            if member is not None and not member[0]:
                connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))
            return
        except (pg.DuplicateObject, pg.UniqueViolation, pg.InternalError_):
            time.sleep(0.05 * (attempt + 1))
    raise InitializationError(f"the role {role} can't be created", entry=catalogue.MIGRATION_FAILED)


def _connect(url: str, wait_s: float) -> psycopg.Connection[Any]:
    """Waits for a database that is still starting."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            return psycopg.connect(url, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError:
            if time.monotonic() >= deadline_s:
                raise StorageUnavailable(
                    "the database can't be reached", entry=catalogue.DATABASE_UNAVAILABLE
                ) from None
            time.sleep(0.25)
