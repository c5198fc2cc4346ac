"""HTTP fronts of whole meshes: who may call them, and what happens when one, or its gateway, goes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from support.eventually import eventually
from support.folders import open_folder
from support.mesh import Mesh, running_mesh

INFO = "/info"
DOCUMENT = {
    "modelId": "magika",
    "inputs": {"bytes": {"shape": [1, 2048], "dtype": "INT32", "data": [65] * 2048}},
    "outputs": ["target_label"],
}


def client_of(mesh: Mesh) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=str(mesh.http), headers={"x-api-key": mesh.api_key}, timeout=60)


async def test_the_key_of_this_machine_opens_nothing_to_pages_of_others(mesh: Mesh) -> None:
    async with client_of(mesh) as client:
        assert (await client.get(INFO)).status_code == 200
        assert (await client.get(INFO, headers={"origin": str(mesh.http)})).status_code == 200
        foreign = (
            {"host": "evil.example"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"referer": "http://evil.example/page"},
            {"x-forwarded-host": "evil.example"},
        )
        for headers in foreign:
            refused = await client.get(INFO, headers=headers)
            assert (refused.status_code, refused.json()["errorCode"]) == (403, "AUTHORITY_FORBIDDEN"), headers
        for headers in ({"x-api-key": ""}, {"x-api-key": "nobody's"}, {"authorization": "Bearer community"}):
            assert (await client.get(INFO, headers=headers)).status_code == 401, headers
        key, bearer = ("x-api-key", mesh.api_key), ("authorization", f"Bearer {mesh.api_key}")
        for twice in ([key, key], [key, bearer], [key, ("x-api-key", "other")], [bearer, bearer]):
            refused = await client.get(INFO, headers=twice)
            assert (refused.status_code, refused.json()["errorCode"]) == (401, "CREDENTIAL_MALFORMED"), twice
        tenants = [key, ("x-tenant-id", "community"), ("x-tenant-id", "default")]
        assert (await client.get(INFO, headers=tenants)).json()["errorCode"] == "TENANT_MISMATCH"


@pytest.fixture(scope="module")
def twins() -> Iterator[Mesh]:
    with open_folder() as folder:
        with running_mesh(folder, "--runners", "1", "--gateways", "2", http=True) as running:
            yield running
        assert running.supervisor.returncode == 0, running.log.read_text(errors="replace")[-6000:]


async def requests_of(front: str | None) -> float:
    """How many requests a front has answered, health checks of its own apart."""
    async with httpx.AsyncClient(timeout=30) as client:
        counts = (await client.get(str(front))).text
    lines = [line for line in counts.splitlines() if line.startswith('headrace_http_requests_total{method="GET"')]
    return sum(float(line.rpartition(" ")[2]) for line in lines if "/health" in line)


@pytest.mark.fault
async def test_fronts_share_a_port_and_one_that_goes_costs_its_connections_only(twins: Mesh) -> None:
    fronts = twins.named("http")
    assert [process.name for process in fronts] == ["http-0", "http-1"]
    for _ in range(64):
        async with client_of(twins) as client:
            assert (await client.get("/health")).status_code == 200
    assert all([await requests_of(process.metrics) for process in fronts])

    os.kill(fronts[0].pid, signal.SIGTERM)
    failed = 0
    for _ in range(100):
        try:
            async with client_of(twins) as client:
                assert (await client.post("/v1/infer", json=DOCUMENT)).status_code == 200
        except httpx.TransportError:
            failed += 1
    # Connections that it had not accepted yet.
    assert failed <= 2
    await eventually(lambda: twins.current_processes()["http-0"].pid != fronts[0].pid)


@pytest.mark.fault
async def test_a_front_without_its_gateway_says_so_until_it_is_back(twins: Mesh) -> None:
    gateways = twins.current_processes()
    for name in ("gateway-0", "gateway-1"):
        os.kill(gateways[name].pid, signal.SIGKILL)
    codes: list[int] = []
    async with client_of(twins) as client:
        async with asyncio.timeout(60):
            while not (503 in codes and codes[-1] == 200):
                answer = await client.post("/v1/infer", json=DOCUMENT)
                codes.append(answer.status_code)
                if answer.status_code != 200:
                    assert answer.status_code == 503 and answer.headers["retry-after"], answer.text
                await asyncio.sleep(0.05)
