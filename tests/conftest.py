"""Fixtures of every tier: PostgreSQL and Valkey, real and started only when a test asks for them."""

from __future__ import annotations

import signal
from collections.abc import Generator

import hypothesis
import pytest

from support.postgres import fresh_database, migrated_template, running_postgres
from support.processes import HeldPort
from support.valkey import running_valkey

# No deadline for one example: a shared machine pauses now and then. Each run draws the same examples, so that a red run
# is about the change; `--hypothesis-profile=search` looks for new ones.
# Fifty examples keep the unit tests below ten seconds; a test whose input is hostile asks for more.
hypothesis.settings.register_profile("headrace", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("search", hypothesis.settings.get_profile("headrace"), derandomize=False)
hypothesis.settings.load_profile("headrace")

# A shell that starts the run in the background has it ignore interrupts, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def port() -> Generator[HeldPort]:
    """A port for a server that isn't there all the time; nobody else gets it meanwhile."""
    held = HeldPort()
    yield held
    held.close()


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """URL of a PostgreSQL superuser connection, one server for the whole run."""
    with running_postgres() as url:
        yield url


@pytest.fixture
def database_url(postgres_url: str) -> Generator[str]:
    """URL of an empty database that belongs to this test alone; roles are shared by the whole server."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def quota_template(postgres_url: str) -> Generator[str]:
    """Name of the database that `quota_database_url` copies."""
    with migrated_template(postgres_url, "quota") as name:
        yield name


@pytest.fixture(scope="session")
def registry_template(postgres_url: str) -> Generator[str]:
    """Name of the database that `registry_database_url` copies."""
    with migrated_template(postgres_url, "registry") as name:
        yield name


@pytest.fixture
def quota_database_url(postgres_url: str, quota_template: str) -> Generator[str]:
    """URL of a database with quota's schema that belongs to this test alone."""
    with fresh_database(postgres_url, template=quota_template) as url:
        yield url


@pytest.fixture
def registry_database_url(postgres_url: str, registry_template: str) -> Generator[str]:
    """URL of a database with the registry's schema that belongs to this test alone."""
    with fresh_database(postgres_url, template=registry_template) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Generator[str]:
    """`redis://` URL of a Valkey server, one for the whole run; tests use keys of their own."""
    with running_valkey() as url:
        yield url
