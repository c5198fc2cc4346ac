"""`headrace tenants`: create, list, suspend, resume. For operators."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from headrace.quota.v1 import tenants_pb2, tenants_pb2_grpc
from headrace_cli.commands.session import (
    DEFAULT_API_KEY,
    ApiKey,
    AsJson,
    Endpoint,
    connect,
    print_json,
)
from headrace_cli.presentation import enum_text, table, time_text
from headrace_cli.terminal import output

app = typer.Typer(
    help="Tenants. Needs an admin key of the tenant `default`; that of a local mesh is in its "
    "state directory: --api-key @.headrace/secrets/admin.key",
    no_args_is_help=True,
)
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]


@app.command("create")
def create(
    tenant: TenantId,
    display_name: Annotated[str, typer.Option("--display-name", help="Name for people.")] = "",
    tier: Annotated[str, typer.Option("--tier", help="Service tier.")] = "",
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    as_json: AsJson = False,
) -> None:
    """Register a tenant. Repeating it with the same values changes nothing."""
    request = tenants_pb2.CreateTenantRequest(id=tenant, display_name=display_name, tier=tier)
    with connect(endpoint, api_key) as connection:
        stub = tenants_pb2_grpc.TenantServiceStub(connection.channel)
        _answer(connection.call(stub.CreateTenant, request).tenant, as_json=as_json)


@app.command("list")
def list_tenants(endpoint: Endpoint = None, api_key: ApiKey = DEFAULT_API_KEY, as_json: AsJson = False) -> None:
    """List all tenants."""
    with connect(endpoint, api_key) as connection:
        stub = tenants_pb2_grpc.TenantServiceStub(connection.channel)
        tenants = [
            tenant
            for page in connection.pages(stub.ListTenants, tenants_pb2.ListTenantsRequest())
            for tenant in page.tenants
        ]
    if as_json:
        print_json(tenants)
        return
    shown = table("tenant", "name", "status", "tier", "created (UTC)")
    for tenant in tenants:
        shown.add_row(
            Text(tenant.id, style="name"),
            Text(tenant.display_name),
            enum_text(tenants_pb2.TenantStatus, tenant.status),
            Text(tenant.tier),
            time_text(tenant.create_time),
        )
    output().print(shown)


@app.command("suspend")
def suspend(
    tenant: TenantId,
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    as_json: AsJson = False,
) -> None:
    """Refuse all calls of a tenant, at every gateway within seconds."""
    with connect(endpoint, api_key) as connection:
        stub = tenants_pb2_grpc.TenantServiceStub(connection.channel)
        request = tenants_pb2.SuspendTenantRequest(id=tenant)
        _answer(connection.call(stub.SuspendTenant, request).tenant, as_json=as_json)


@app.command("resume")
def resume(
    tenant: TenantId,
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    as_json: AsJson = False,
) -> None:
    """End a suspension."""
    with connect(endpoint, api_key) as connection:
        stub = tenants_pb2_grpc.TenantServiceStub(connection.channel)
        request = tenants_pb2.ResumeTenantRequest(id=tenant)
        _answer(connection.call(stub.ResumeTenant, request).tenant, as_json=as_json)


def _answer(tenant: tenants_pb2.Tenant, *, as_json: bool) -> None:
    if as_json:
        print_json(tenant)
        return
    status = enum_text(tenants_pb2.TenantStatus, tenant.status)
    output().print(Text.assemble(("✓ ", "good"), (tenant.id, "name"), f" is {status}"))
