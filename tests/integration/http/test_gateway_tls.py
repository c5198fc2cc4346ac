"""A front and a gateway that know each other by certificates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from headrace_client import rpcs
from headrace_common.tls import Tls
from inference.open_inference_pb2 import ServerMetadataResponse
from support.certificates import Authority
from support.http_front import http_front
from support.scripted_mesh import ScriptedMesh, serving


async def _metadata(_: bytes) -> bytes:
    return ServerMetadataResponse(name="headrace").SerializeToString()


async def asked(address: str, **settings: Any) -> httpx.Response:
    """What a front with these settings says of the gateway."""
    # Calls within a machine need no TLS, so the address must not look like one.
    async with (
        http_front(f"dns:///{address}", **settings) as http,
        httpx.AsyncClient(base_url=http.url, timeout=60) as client,
    ):
        return await client.get("/v2", headers={"x-api-key": "key"})


async def test_front_and_gateway_know_each_other_by_their_certificates(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    files, front = ours.issue("gateway"), ours.issue("front")
    mesh = ScriptedMesh(unary={rpcs.SERVER_METADATA.path: _metadata})
    own: dict[str, Any] = {"tls_certificate_file": front.certificate, "tls_key_file": front.key}
    async with serving(mesh, credentials=Tls(files=files).server_credentials()) as address:
        answer = await asked(address, tls_ca_file=ours.file, **own)
        assert (answer.status_code, answer.json()["name"]) == (200, "headrace")
        assert mesh.calls[0].metadata["x-api-key"] == "key"
        wrong = ({"tls_ca_file": foreign.file, **own}, {"tls_ca_file": ours.file}, {})
        refused = await asyncio.gather(*(asked(address, **settings) for settings in wrong))
        assert [answer.status_code for answer in refused] == [503] * 3
        assert len(mesh.calls) == 1


async def test_a_front_calls_with_the_certificate_that_replaced_its_own(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    server, front = Tls(files=ours.issue("gateway")), ours.issue("front")
    mesh = ScriptedMesh(unary={rpcs.SERVER_METADATA.path: _metadata})
    own: dict[str, Any] = {"tls_certificate_file": front.certificate, "tls_key_file": front.key}
    async with (
        serving(mesh, credentials=server.server_credentials()) as address,
        http_front(f"dns:///{address}", tls_ca_file=ours.file, **own) as http,
        httpx.AsyncClient(base_url=http.url, timeout=60) as client,
    ):
        assert (await client.get("/v2", headers={"x-api-key": "key"})).status_code == 200
        # Everything by another authority: with what was there before, a new connection is refused.
        other = Authority(tmp_path, "other")
        for files in (server.files, front):
            fresh = other.issue("fresh")
            for old, new in ((files.certificate, fresh.certificate), (files.key, fresh.key)):
                assert isinstance(old, Path)
                assert isinstance(new, Path)
                old.write_bytes(new.read_bytes())
        ours.file.write_bytes(other.file.read_bytes())
        assert http.gateway_tls is not None
        for tls in (server, http.gateway_tls):
            tls.look()
            tls.look()
            assert tls.reloads == 1
        for key in ("key", "another-key"):
            assert (await client.get("/v2", headers={"x-api-key": key})).status_code == 200
        assert len(http.front.sessions) == 2
        http.front.sessions.close_idle()
