"""The service needs no superuser: a user that owns the database and may create roles suffices."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import psycopg

from headrace.registry.v1 import models_pb2 as pb
from support import onnx_models
from support.quota import Keys
from support.registry import ACME, running_registry
from support.restartable_postgres import RestartablePostgres


async def test_service_migrates_and_serves_as_a_plain_owner_of_its_database(
    postgres: RestartablePostgres, keys: Keys, tmp_path: Path
) -> None:
    await asyncio.to_thread(postgres.start)
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE plain LOGIN CREATEROLE NOSUPERUSER NOBYPASSRLS")
        superuser.execute("CREATE DATABASE mesh OWNER plain")
    url = postgres.url.replace("postgres@", "plain@").rpartition("/")[0] + "/mesh"
    for number in (1, 2):  # the second start finds everything made
        async with running_registry(url, keys, tmp_path) as registry:
            assert (await registry.client.upload(onnx_models.tiny())).version == number
            await registry.client.call(ACME, pb.ArchiveVersionRequest(model="m", version=number))
            async with aclosing(registry.client.watch()) as feed:
                assert (await anext(feed)).revision == number * 2
    # Policies bind the tables' owner as well.
    with psycopg.connect(url) as owner:
        assert owner.execute("SELECT count(*) FROM registry.models").fetchone() == (0,)
