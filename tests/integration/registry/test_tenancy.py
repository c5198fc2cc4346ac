"""What belongs to another tenant doesn't exist, to the last byte of the answer."""

from __future__ import annotations

from typing import LiteralString

import grpc
import psycopg
import pytest
from psycopg import sql

from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1 import models_pb2_grpc as stubs
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.principal import PRINCIPAL_KEY, Principal
from headrace_common.rpc_status import STATUS_DETAILS_KEY
from headrace_registry.app import AUDIENCE
from support import onnx_models
from support.registry import ACME, GLOBEX, RegistryClient
from support.row_level_security import holes, tenant_tables

REQUESTS = {
    "GetModel": pb.GetModelRequest(name="secret"),
    "GetVersion": pb.GetVersionRequest(model="secret", version=1),
    "latest": pb.GetVersionRequest(model="secret"),
    "ListVersions": pb.ListVersionsRequest(model="secret"),
    "ArchiveVersion": pb.ArchiveVersionRequest(model="secret", version=1),
}


async def raw_refusal(client: RegistryClient, principal: Principal, request: object) -> tuple[object, ...]:
    """Code, text and details exactly as they come over the wire."""
    stub = stubs.ModelServiceStub(client.channel)
    method = getattr(stub, type(request).__name__.removesuffix("Request"))
    token = client.signer.sign(principal, audience=AUDIENCE)
    metadata = ((PRINCIPAL_KEY, token), ("x-request-id", "the-same"))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await method(request, metadata=metadata, timeout=20)
    trailing = dict(failure.value.trailing_metadata() or ())
    return failure.value.code(), failure.value.details(), trailing[STATUS_DETAILS_KEY]


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
async def test_foreign_model_is_answered_like_an_absent_one(client: RegistryClient, request_: object) -> None:
    absent = await raw_refusal(client, GLOBEX, request_)
    await client.upload(onnx_models.tiny(), model="secret")
    assert await raw_refusal(client, GLOBEX, request_) == absent
    assert absent[0] == grpc.StatusCode.NOT_FOUND


async def test_foreign_download_is_not_found(client: RegistryClient) -> None:
    await client.upload(onnx_models.tiny(), model="secret")
    with pytest.raises(HeadraceError) as failure:
        await client.download(GLOBEX, pb.DownloadVersionRequest(model="secret", version=1))
    assert failure.value.entry == catalogue.MODEL_NOT_FOUND


async def test_two_tenants_have_models_of_the_same_name(client: RegistryClient) -> None:
    mine = await client.upload(onnx_models.tiny(seed=1), version=1)
    theirs = await client.upload(onnx_models.tiny(seed=2), principal=GLOBEX, version=1)
    assert mine.uid != theirs.uid
    await client.call(GLOBEX, pb.ArchiveVersionRequest(model="m", version=1))
    response: pb.GetVersionResponse = await client.call(ACME, pb.GetVersionRequest(model="m", version=1))
    assert response.version == mine


async def test_listing_shows_the_own_models_only(client: RegistryClient) -> None:
    for principal, name in ((ACME, "a"), (GLOBEX, "b")):
        await client.call(principal, pb.CreateModelRequest(name=name))
    response: pb.ListModelsResponse = await client.call(ACME, pb.ListModelsRequest())
    assert [model.name for model in response.models] == ["a"]


def count_of(table: str) -> sql.Composed:
    return sql.SQL("SELECT count(*) FROM registry.{}").format(sql.Identifier(table))


async def test_row_level_security_hides_rows_even_from_a_wrong_query(client: RegistryClient, database_url: str) -> None:
    await client.upload(onnx_models.tiny())
    with psycopg.connect(database_url, options="-c role=headrace_registry") as connection:
        tables = tenant_tables(database_url, "registry")
        assert tables.keys() >= {"models", "model_versions", "version_files", "artifact_files", "artifact_segments"}
        for scope, seen in (("", False), ("globex", False), ("acme", True), ("*", True)):
            connection.execute("SELECT set_config('headrace.tenant_id', %s, false)", (scope,))
            for table in tables.keys() - {"catalog_changes"}:
                assert bool(connection.execute(count_of(table)).fetchone() != (0,)) is seen, table
        connection.execute("SELECT set_config('headrace.tenant_id', 'globex', false)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO registry.models (tenant_id, name) VALUES ('acme', 'planted')")


async def test_the_catalogue_has_no_way_around_a_tenants_scope(client: RegistryClient, database_url: str) -> None:
    assert holes(database_url, "registry") == []


async def test_database_itself_refuses_to_change_a_version(client: RegistryClient, database_url: str) -> None:
    await client.upload(onnx_models.tiny(), version=1)
    await client.call(ACME, pb.ArchiveVersionRequest(model="m", version=1))
    with psycopg.connect(database_url, autocommit=True) as superuser:
        changes: tuple[LiteralString, ...] = (
            "UPDATE registry.model_versions SET manifest = 'x'",
            "UPDATE registry.model_versions SET uid = gen_random_uuid()",
            "UPDATE registry.model_versions SET state = 'READY', archived_at = NULL",
        )
        for change in changes:
            with pytest.raises(psycopg.errors.RestrictViolation):
                superuser.execute(change)


async def test_everything_in_the_schema_is_commented(client: RegistryClient, database_url: str) -> None:
    """Tables, columns, functions and indexes that don't merely follow from a constraint."""
    query = """
        SELECT c.relname || coalesce('.' || a.attname, '') FROM pg_class c
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind = 'r'
        WHERE c.relnamespace = 'registry'::regnamespace AND c.relkind IN ('r', 'i') AND c.relname <> 'schema_version'
          AND c.relname NOT IN ('schema_version_pkc', 'catalog_feed_pkey')
          AND coalesce(col_description(c.oid, a.attnum), obj_description(c.oid)) IS NULL
        UNION ALL
        SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'registry'::regnamespace
          AND p.proname <> 'in_scope' AND obj_description(p.oid) IS NULL
    """
    with psycopg.connect(database_url) as connection:
        assert connection.execute(query).fetchall() == []
