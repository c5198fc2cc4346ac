"""`headrace keys`: create, list, revoke."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
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

app = typer.Typer(help="API keys. Needs the role admin.", no_args_is_help=True)
Tenant = Annotated[str, typer.Option("--tenant", help="The tenant. Default: the caller's own.")]


class RoleName(StrEnum):
    """Roles by the names that people type; each includes the ones before it."""

    VIEWER = "viewer"
    USER = "user"
    MODEL_ADMIN = "model_admin"
    ADMIN = "admin"


@app.command("create")
def create(
    tenant: Tenant = "",
    role: Annotated[RoleName, typer.Option("--role", help="What the key may do.")] = RoleName.USER,
    display_name: Annotated[str, typer.Option("--display-name", help="Name for people.")] = "",
    expires_in_days: Annotated[float | None, typer.Option("--expires-in-days", min=0, help="Default: never.")] = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once and can't be shown again."""
    request = tenants_pb2.CreateApiKeyRequest(
        tenant_id=tenant,
        display_name=display_name,
        roles=[tenants_pb2.Role.Value(f"ROLE_{role.name}")],
    )
    if expires_in_days is not None:
        request.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=expires_in_days))
    with connect(endpoint, api_key) as connection:
        stub = tenants_pb2_grpc.TenantServiceStub(connection.channel)
        answer = connection.call(stub.CreateApiKey, request)
    if as_json:
        print_json(answer)
        return
    console = output()
    console.print(Text(answer.key, style="value"))
    console.print(
        Text(
            f"id {answer.api_key.id}, tenant {answer.api_key.tenant_id}; keep the key, it can't be shown again",
            style="quiet",
        )
    )


@app.command("list")
def list_keys(
    tenant: Tenant = "",
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    as_json: AsJson = False,
) -> None:
    """List a tenant's keys, newest first, without the keys themselves."""
    with connect(endpoint, api_key) as connection:
        stub = tenants_pb2_grpc.TenantServiceStub(connection.channel)
        keys = [
            key
            for page in connection.pages(stub.ListApiKeys, tenants_pb2.ListApiKeysRequest(tenant_id=tenant))
            for key in page.api_keys
        ]
    if as_json:
        print_json(keys)
        return
    shown = table("key", "id", "name", "roles", "created", "ends")
    for key in keys:
        ends = "revoked" if key.HasField("revoke_time") else time_text(key.expire_time)
        roles = ", ".join(enum_text(tenants_pb2.Role, role).replace(" ", "_") for role in key.roles)
        shown.add_row(
            Text(key.prefix + "…", style="name"),
            key.id,
            Text(key.display_name),
            roles,
            time_text(key.create_time),
            ends,
        )
    output().print(shown if keys else Text("no keys"))


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, not the key itself.")],
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    as_json: AsJson = False,
) -> None:
    """End a key for good, at every gateway within seconds."""
    with connect(endpoint, api_key) as connection:
        stub = tenants_pb2_grpc.TenantServiceStub(connection.channel)
        key = connection.call(stub.RevokeApiKey, tenants_pb2.RevokeApiKeyRequest(id=key_id)).api_key
    if as_json:
        print_json(key)
        return
    output().print(Text.assemble(("✓ ", "good"), (key.prefix + "…", "name"), " is revoked"))
