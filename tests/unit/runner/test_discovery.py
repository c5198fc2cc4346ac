"""Which gateways a runner dials, and by which name it knows them."""

from __future__ import annotations

from headrace_runner.mesh.discovery import resolve


async def test_addresses_that_were_looked_up_keep_the_name_that_certificates_have() -> None:
    found = await resolve(["gateway-0:8082", "dns:///127.0.0.1:8083", "dns:///127.0.0.1:8083", "dns:///localhost:8084"])
    assert found.pop("gateway-0:8082") == ""
    assert found.pop("127.0.0.1:8083") == "127.0.0.1"
    assert found and set(found.values()) == {"localhost"}
    assert {address.rpartition(":")[2] for address in found} == {"8084"}
