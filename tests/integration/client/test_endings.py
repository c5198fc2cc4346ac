"""Why a call ended, though grpc.aio puts a status of its own in the place of a server's that comes during a write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from headrace_client import AsyncClient, rpcs
from headrace_client.errors import AuthError, ModelError, UnreachableError
from headrace_client.retries import NO_RETRIES
from headrace_common import catalogue, errors
from headrace_common.errors import ModelError as Conflict
from support.scripted_mesh import ScriptedMesh
from support.scripted_mesh import serving as serving_mesh
from support.stream_clients import stream_to
from support.stream_gateway import serving

CONTENT = bytes(range(256)) * (10 << 10)
REVOKED = errors.AuthError("the key was revoked", entry=catalogue.CREDENTIAL_UNKNOWN)


async def refuse(requests: AsyncIterator[bytes]) -> bytes:
    await anext(requests)
    raise Conflict("other bytes")


async def test_an_upload_that_is_refused_half_way_tells_why() -> None:
    mesh = ScriptedMesh(uploads={rpcs.UPLOAD_VERSION.path: refuse})
    async with serving_mesh(mesh) as address, AsyncClient(address) as client:
        for _ in range(40):
            with pytest.raises(ModelError, match="other bytes"):
                await client.models.push(CONTENT, name="m")
    assert len(mesh.calls) == 40


@pytest.mark.parametrize("ending", [REVOKED, None], ids=["refused", "ended"])
async def test_a_stream_that_ends_while_it_is_written_tells_why(ending: errors.HeadraceError | None) -> None:
    rows = np.zeros(1 << 17)
    async with serving() as gateway, asyncio.timeout(100):
        gateway.respond = lambda served, call: served.end(ending)
        for _ in range(12):
            async with stream_to(gateway.address, retry=NO_RETRIES) as stream:
                outcomes = await asyncio.gather(
                    *(stream.infer("echo", {"x": rows}) for _ in range(8)), return_exceptions=True
                )
            assert {type(outcome) for outcome in outcomes} == {UnreachableError if ending is None else AuthError}
