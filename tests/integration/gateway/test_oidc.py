"""Callers who sign in with an issuer's tokens, through a gateway that reads the issuer's keys over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import grpc.aio
import pytest

from headrace.quota.v1 import tenants_pb2, tenants_pb2_grpc
from headrace_common.errors import HeadraceError
from headrace_common.rpc_status import from_rpc_error
from headrace_gateway.oidc.key_source import ASKED_EVERY_S
from support.gateway import Backends, FrontDoor, open_door
from support.issuer import AUDIENCE, ISSUER, Issuer


class Publisher:
    """A web server with one page, which counts its readers."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.status = 200
        self.reads = 0
        publisher = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.reads += 1
                self.send_response(publisher.status)
                if publisher.status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(publisher.document)))
                self.end_headers()
                self.wfile.write(publisher.document)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def publisher(issuer: Issuer) -> Iterator[Publisher]:
    publisher = Publisher(issuer.published())
    thread = Thread(target=publisher.server.serve_forever)
    thread.start()
    yield publisher
    publisher.server.shutdown()
    thread.join()
    publisher.server.server_close()


@pytest.fixture
async def door(quota_alone: Backends, publisher: Publisher) -> AsyncIterator[FrontDoor]:
    variables: dict[str, Any] = {
        "HEADRACE_GATEWAY_OIDC_ISSUER": ISSUER,
        "HEADRACE_GATEWAY_OIDC_AUDIENCE": AUDIENCE,
        "HEADRACE_GATEWAY_OIDC_JWKS": publisher.url,
        "HEADRACE_GATEWAY_OIDC_REFRESH_S": "3600",
    }
    async with open_door(quota_alone, **variables) as opened:
        yield opened


async def own_tenant(door: FrontDoor, token: str) -> str | HeadraceError:
    stub = tenants_pb2_grpc.TenantServiceStub(door.channel)
    try:
        metadata = (("authorization", f"Bearer {token}"),)
        found = await stub.GetTenant(tenants_pb2.GetTenantRequest(), metadata=metadata, timeout=30)
        return found.tenant.id
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)


async def when_read(door: FrontDoor, token: str) -> str | HeadraceError:
    """What comes once the gateway has read the keys that it is about to read."""
    async with asyncio.timeout(60):
        while isinstance(answer := await own_tenant(door, token), HeadraceError):
            if answer.reason != "CREDENTIALS_NOT_READY":
                return answer
            await asyncio.sleep(0.05)
        return answer


async def test_token_opens_the_mesh_and_keys_rotate(door: FrontDoor, publisher: Publisher, issuer: Issuer) -> None:
    claims = issuer.claims(time.time(), tenant="community", roles=["viewer"])
    assert await when_read(door, issuer.token(claims)) == "community"
    read = publisher.reads

    # A key that the gateway has not seen has it look again, once however many ask.
    renewed = Issuer()
    publisher.document = renewed.published({**renewed.rsa.as_dict(private=False), "kid": "new"})
    fresh = renewed.token(claims, kid="new")
    assert set(await asyncio.gather(*(when_read(door, fresh) for _ in range(8)))) == {"community"}
    assert publisher.reads == read + 1
    former = await own_tenant(door, issuer.token(claims))
    assert isinstance(former, HeadraceError) and former.reason == "TOKEN_INVALID"

    # Strangers can't have it look as often as they like.
    begun, read = time.monotonic(), publisher.reads
    for number in range(10):
        strange = await own_tenant(door, renewed.token(claims, kid=f"k{number}"))
        assert isinstance(strange, HeadraceError)
        assert strange.reason in {"TOKEN_INVALID", "CREDENTIALS_NOT_READY"}
    assert publisher.reads - read <= 1 + (time.monotonic() - begun) / ASKED_EVERY_S
    assert await own_tenant(door, fresh) == "community"
    assert await own_tenant(door, door.admin_key) == "default"


@pytest.mark.parametrize(("status", "document"), [(500, b"no"), (302, b""), (200, b"<html>"), (200, b'{"keys":[]}')])
async def test_what_an_issuer_does_wrong_ends_no_gateway(
    quota_alone: Backends, publisher: Publisher, issuer: Issuer, status: int, document: bytes
) -> None:
    good, publisher.document, publisher.status = publisher.document, document, status
    variables: dict[str, Any] = {
        "HEADRACE_GATEWAY_OIDC_ISSUER": ISSUER,
        "HEADRACE_GATEWAY_OIDC_AUDIENCE": AUDIENCE,
        "HEADRACE_GATEWAY_OIDC_JWKS": publisher.url,
    }
    async with open_door(quota_alone, **variables) as door:
        token = issuer.token(issuer.claims(time.time(), tenant="community", roles=["viewer"]))
        refused = await own_tenant(door, token)
        assert isinstance(refused, HeadraceError) and refused.reason == "CREDENTIALS_NOT_READY"
        assert await own_tenant(door, door.admin_key) == "default"
        publisher.document, publisher.status = good, 200
        assert await when_read(door, token) == "community"
