"""The service needs no superuser: a user that owns the database and may create roles suffices."""

from __future__ import annotations

import asyncio

import psycopg

from headrace.quota.v1 import tenants_pb2 as pb
from support.quota import OPERATOR, Keys, admin_of, running_quota
from support.restartable_postgres import RestartablePostgres


async def test_service_migrates_and_serves_as_a_plain_owner_of_its_database(
    postgres: RestartablePostgres, keys: Keys
) -> None:
    await asyncio.to_thread(postgres.start)
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE plain LOGIN CREATEROLE NOSUPERUSER NOBYPASSRLS")
        superuser.execute("CREATE DATABASE mesh OWNER plain")
    url = postgres.url.replace("postgres@", "plain@").rpartition("/")[0] + "/mesh"
    for _ in range(2):  # the second start finds everything made
        async with running_quota(url, keys) as quota:
            await quota.client.create_tenant("acme")
            made = await quota.client.create_key("acme")
            await quota.client.call(admin_of("acme"), pb.RevokeApiKeyRequest(id=made.api_key.id))
            page = await anext(quota.client.watch())
            assert {tenant.tenant_id for tenant in page.tenants} == {"default", "acme"}
            assert page.keys
            await quota.client.call(OPERATOR, pb.SuspendTenantRequest(id="acme"))
            await quota.client.call(OPERATOR, pb.ResumeTenantRequest(id="acme"))
    # Policies bind the tables' owner as well.
    with psycopg.connect(url) as owner:
        assert owner.execute("SELECT count(*) FROM quota.tenants").fetchone() == (0,)
