"""The public listener: what it refuses before any work, what it tells of itself, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from headrace.quota.v1 import tenants_pb2, tenants_pb2_grpc
from headrace_cli.mesh.ports import PortChoice, SharedPort
from headrace_common.errors import HeadraceError
from headrace_common.rpc_status import from_rpc_error
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support.eventually import eventually
from support.gateway import Backends, FrontDoor, open_door
from support.processes import HeldPort, Unprivileged, command_as, listens, stop

BUF = Path(sys.executable).with_name("buf")
INFERENCE = "inference.GRPCInferenceService"
PACKED = "headrace.gateway.v1.InferenceService"
TENANTS = "headrace.quota.v1.TenantService"
PUBLIC = {
    INFERENCE,
    PACKED,
    TENANTS,
    "headrace.quota.v1.AuditService",
    "headrace.quota.v1.QuotaService",
    "headrace.quota.v1.UsageService",
    "headrace.gateway.v1.MeshService",
    "headrace.registry.v1.ModelService",
    "grpc.health.v1.Health",
}
COMMUNITY = (("x-api-key", "community"),)


async def failure_of(call: Any) -> HeadraceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that neither answers nor goes away."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def quota_pid(backends: Backends) -> int:
    assert backends.quota.process is not None
    return backends.quota.process.pid


def get_tenant(door: FrontDoor, timeout: float = 60) -> Any:
    return tenants_pb2_grpc.TenantServiceStub(door.channel).GetTenant(
        tenants_pb2.GetTenantRequest(), metadata=COMMUNITY, timeout=timeout
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (f"/{INFERENCE}/ModelInfer", "CREDENTIAL_MISSING"),
        (f"/{INFERENCE}/ServerMetadata", "CREDENTIAL_MISSING"),
        (f"/{TENANTS}/GetTenant", "CREDENTIAL_MISSING"),
        ("/headrace.registry.v1.ModelService/UploadVersion", "CREDENTIAL_MISSING"),
        ("/headrace.gateway.v1.MeshService/WatchRunners", "CREDENTIAL_MISSING"),
        (f"/{INFERENCE}/ModelStreamInfer", "CREDENTIAL_MISSING"),
        (f"/{INFERENCE}/RepositoryIndex", "CREDENTIAL_MISSING"),
        (f"/{PACKED}/Infer", "CREDENTIAL_MISSING"),
        (f"/{PACKED}/InferBatch", "CREDENTIAL_MISSING"),
        (f"/{PACKED}/Stream", "CREDENTIAL_MISSING"),
        (f"/{INFERENCE}/Nothing", "METHOD_UNKNOWN"),
        (f"/{PACKED}/Nothing", "METHOD_UNKNOWN"),
        ("/headrace.quota.internal.v1.PrincipalFeedService/WatchPrincipals", "METHOD_UNKNOWN"),
        ("/headrace.registry.internal.v1.ArtifactService/ReadArtifact", "METHOD_UNKNOWN"),
        ("/headrace.runner.internal.v1.RunnerMesh/Register", "METHOD_UNKNOWN"),
        ("/grpc.health.v1.Health/List", "METHOD_UNKNOWN"),
        ("/nothing/at/all", "METHOD_UNKNOWN"),
        (f"/{INFERENCE}/modelinfer", "METHOD_UNKNOWN"),
        (f"/{INFERENCE.upper()}/ModelInfer", "METHOD_UNKNOWN"),
        (f"/{INFERENCE}/ModelInfer/", "METHOD_UNKNOWN"),
        (f"//{INFERENCE}/ModelInfer", "METHOD_UNKNOWN"),
        (f"/{INFERENCE}//ModelInfer", "METHOD_UNKNOWN"),
        (f"/{INFERENCE}/ModelInfer?x-api-key=hr", "METHOD_UNKNOWN"),
        (f"/{INFERENCE}%2FModelInfer", "METHOD_UNKNOWN"),
        (f"/x/../{INFERENCE}/ModelInfer", "METHOD_UNKNOWN"),
        (f"/{INFERENCE}", "METHOD_UNKNOWN"),
        (f"/{INFERENCE}/" + "M" * 4_000, "METHOD_UNKNOWN"),
        ("/", "METHOD_UNKNOWN"),
    ],
)
async def test_call_is_refused_on_its_metadata_while_its_body_is_still_missing(
    quota_door: FrontDoor, path: str, reason: str
) -> None:
    call = quota_door.channel.stream_unary(path)(timeout=30)
    failure = await failure_of(call)
    assert failure.reason == reason


async def test_refused_large_body_is_never_received(quota_door: FrontDoor) -> None:
    body, took_s = bytes(48 << 20), list[float]()
    for _ in range(3):
        started = time.monotonic()
        failure = await failure_of(quota_door.channel.unary_unary(f"/{INFERENCE}/ModelInfer")(body, timeout=30))
        assert failure.reason == "CREDENTIAL_MISSING"
        took_s.append(time.monotonic() - started)
    assert min(took_s) < 2


async def test_liveness_and_readiness_need_no_key(quota_door: FrontDoor) -> None:
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(quota_door.channel)
    assert (await stub.ServerLive(oip.ServerLiveRequest(), timeout=30)).live
    assert not (await stub.ServerReady(oip.ServerReadyRequest(), timeout=30)).ready


async def test_server_metadata_names_the_software(quota_door: FrontDoor) -> None:
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(quota_door.channel)
    answer = await stub.ServerMetadata(oip.ServerMetadataRequest(), metadata=COMMUNITY, timeout=30)
    assert (answer.name, answer.version.count(".")) == ("headrace", 2)


@pytest.mark.parametrize("method", [f"/{INFERENCE}/ModelInfer", f"/{TENANTS}/GetTenant", f"/{INFERENCE}/ModelReady"])
@pytest.mark.parametrize("excess_bytes", [1, 60_000])
async def test_message_over_the_cap_is_refused_with_the_limit(
    quota_alone: Backends, method: str, excess_bytes: int
) -> None:
    async with open_door(quota_alone, HEADRACE_MESSAGE_BYTES_MAX="65536") as door:
        body = bytes(65536 + excess_bytes)
        failure = await failure_of(door.channel.unary_unary(method)(body, metadata=COMMUNITY, timeout=30))
        assert (failure.reason, failure.entry.grpc) == ("MESSAGE_TOO_LARGE", "RESOURCE_EXHAUSTED")
        assert (failure.context["limit"], int(str(failure.context["actual"])) >= len(body)) == ("65536", True)
        assert "65536" in failure.message
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.channel.unary_unary(method)(bytes(4 * 65536), metadata=COMMUNITY, timeout=30)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05ab", b"\x0a\x01m\x12\x02\xff\xfe"])
@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelInfer"])
async def test_malformed_protobuf_has_its_own_code_and_a_fixed_text(
    quota_door: FrontDoor, method: str, raw: bytes
) -> None:
    failure = await failure_of(
        quota_door.channel.unary_unary(f"/{INFERENCE}/{method}")(raw, metadata=COMMUNITY, timeout=30)
    )
    assert failure.reason == "REQUEST_MALFORMED"
    assert failure.message in (
        "the request is not a valid protobuf message",
        "the bytes are not a valid protobuf message",
    )


async def test_slow_service_ends_in_our_own_timeout_within_the_deadline(quota_alone: Backends) -> None:
    async with open_door(quota_alone) as door:
        await get_tenant(door)
        with frozen(quota_pid(quota_alone)):
            started = time.monotonic()
            failure = await failure_of(get_tenant(door, timeout=0.5))
            # Far below what the gateway would give a call without a deadline.
            assert time.monotonic() - started < 10
    assert failure.entry.grpc == "DEADLINE_EXCEEDED"


async def test_cancelled_call_gives_its_place_back(quota_alone: Backends) -> None:
    async with open_door(quota_alone, HEADRACE_CALLS_IN_FLIGHT_MAX="1") as door:
        await get_tenant(door)
        with frozen(quota_pid(quota_alone)):
            waiting = get_tenant(door)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(_wait(waiting))), 0.3)
            refused = await failure_of(get_tenant(door))
            assert (refused.reason, refused.entry.grpc) == ("SERVER_OVERLOADED", "RESOURCE_EXHAUSTED")
            waiting.cancel()
        async with asyncio.timeout(30):
            while True:
                try:
                    await get_tenant(door)
                    break
                except grpc.aio.AioRpcError as error:
                    assert from_rpc_error(error).reason == "SERVER_OVERLOADED"


async def _wait(call: Any) -> None:
    try:
        await call
    except asyncio.CancelledError:
        return


@pytest.mark.fault
async def test_killed_quota_service_is_unavailable_for_its_own_methods_alone_and_comes_back(
    quota_alone: Backends,
) -> None:
    async with open_door(quota_alone) as door:
        _, key_id, key = await door.new_tenant(tenants_pb2.ROLE_VIEWER)
        quota_alone.quota.kill()
        try:
            failure = await failure_of(get_tenant(door))
            assert (failure.reason, failure.entry.grpc) == ("UPSTREAM_UNAVAILABLE", "UNAVAILABLE")
            assert failure.context["service"] == "quota"
            assert await door.refusal_of(key) is None
            assert await door.refusal_of("hr_unknown") == "CREDENTIAL_UNKNOWN"
        finally:
            quota_alone.quota.start()
        async with asyncio.timeout(10):
            while True:
                try:
                    await get_tenant(door)
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
        await tenants_pb2_grpc.TenantServiceStub(door.channel).RevokeApiKey(
            tenants_pb2.RevokeApiKeyRequest(id=key_id), metadata=door.admin, timeout=10
        )
        async with asyncio.timeout(5):
            while await door.refusal_of(key) != "KEY_REVOKED":
                pass


async def test_runners_are_listed_for_every_key_and_drained_by_operators_alone(quota_door: FrontDoor) -> None:
    stub = mesh_pb2_grpc.MeshServiceStub(quota_door.channel)
    listed = await stub.ListRunners(mesh_pb2.ListRunnersRequest(), metadata=COMMUNITY, timeout=30)
    assert (listed.gateway_id, len(listed.runners)) == (quota_door.gateway.id, 0)
    refused = await failure_of(
        stub.DrainRunner(mesh_pb2.DrainRunnerRequest(id="runner-0"), metadata=COMMUNITY, timeout=30)
    )
    assert refused.reason == "ROLE_FORBIDDEN"
    absent = await failure_of(
        stub.DrainRunner(mesh_pb2.DrainRunnerRequest(id="runner-0"), metadata=quota_door.admin, timeout=30)
    )
    assert absent.reason == "RUNNER_NOT_FOUND"


async def test_reflection_shows_the_public_services_and_no_internal_one(quota_door: FrontDoor) -> None:
    def reflect() -> tuple[set[str], set[str]]:
        with grpc.insecure_channel(quota_door.gateway.public_address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            methods = {method.name for method in pool.FindServiceByName(INFERENCE).methods}
            with pytest.raises(KeyError):
                pool.FindServiceByName("headrace.quota.internal.v1.PrincipalFeedService")
            with pytest.raises(KeyError):
                pool.FindServiceByName("headrace.runner.internal.v1.RunnerMesh")
            return set(database.get_services()), methods

    services, methods = await asyncio.to_thread(reflect)
    assert services == PUBLIC
    assert {"ModelInfer", "ServerLive"} <= methods


async def buf_curl(address: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(BUF),
        *("curl", "--http2-prior-knowledge", "--protocol", "grpc"),
        *(argument.replace("ADDRESS", f"http://{address}") for argument in arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_buf_curl_lists_and_calls_by_reflection(quota_door: FrontDoor) -> None:
    address = quota_door.gateway.public_address
    code, out, err = await buf_curl(address, "--list-services", "ADDRESS")
    assert (code, set(out.split())) == (0, PUBLIC), err
    code, out, err = await buf_curl(address, "-H", "x-api-key: community", f"ADDRESS/{TENANTS}/GetTenant")
    assert code == 0, err
    assert json.loads(out)["tenant"]["id"] == "community"


@pytest.mark.parametrize(("mode", "keyless", "keyed"), [("keyed", 16, 0), ("off", 12, 12)])
async def test_reflection_can_be_closed(quota_alone: Backends, mode: str, keyless: int, keyed: int) -> None:
    async with open_door(quota_alone, HEADRACE_GATEWAY_REFLECTION=mode) as door:
        for expected, header in ((keyless, ()), (keyed, ("--reflect-header", "x-api-key: community"))):
            code, _, err = await buf_curl(door.gateway.public_address, "--list-services", *header, "ADDRESS")
            assert (code == 0) == (expected == 0), err


async def health_of(channel: grpc.aio.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)).status


async def test_gateway_without_its_feeds_says_not_serving_and_refuses_keys_with_a_hint(quota_alone: Backends) -> None:
    nowhere = {"HEADRACE_GATEWAY_QUOTA_ADDRESS": "127.0.0.1:1", "HEADRACE_GATEWAY_REGISTRY_ADDRESS": "127.0.0.1:1"}
    async with open_door(quota_alone, wait=False, **nowhere) as door:
        for service in ("", INFERENCE, TENANTS):
            assert await health_of(door.channel, service) == health_pb2.HealthCheckResponse.NOT_SERVING
        failure = await failure_of(get_tenant(door))
        assert (failure.reason, failure.entry.grpc) == ("CREDENTIALS_NOT_READY", "UNAVAILABLE")
        assert failure.retry_after_s is not None


async def test_gateway_that_shares_its_port_leaves_connections_to_others_until_it_can_serve_them(
    backends: Backends,
) -> None:
    port = SharedPort(PortChoice(port=0, flexible=True), option="")
    shared = {"HEADRACE_GATEWAY_GRPC_ADDRESS": f"127.0.0.1:{port.port}", "HEADRACE_GATEWAY_SHARE_PORT": "true"}
    nowhere = {"HEADRACE_GATEWAY_QUOTA_ADDRESS": "127.0.0.1:1", "HEADRACE_GATEWAY_REGISTRY_ADDRESS": "127.0.0.1:1"}

    async def ids() -> set[str]:
        """The gateways behind as many connections as it takes to meet all of them."""
        found: set[str] = set()
        for _ in range(32):
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port.port}", options=options) as channel:
                assert await health_of(channel) == health_pb2.HealthCheckResponse.SERVING
                stub = mesh_pb2_grpc.MeshServiceStub(channel)
                listed = await stub.ListRunners(mesh_pb2.ListRunnersRequest(), metadata=COMMUNITY, timeout=30)
                found.add(listed.gateway_id)
        return found

    async with open_door(backends, wait=True, **shared) as first, open_door(backends, wait=False, **shared, **nowhere):
        assert await ids() == {first.gateway.id}
        async with open_door(backends, wait=True, **shared) as second:
            assert await ids() == {first.gateway.id, second.gateway.id}
    port.close()


async def watch(call: Any, seen: list[Any]) -> None:
    while (answer := await call.read()) is not grpc.aio.EOF:
        seen.append(answer)


def tenants_asked_for(door: FrontDoor) -> float | None:
    """Calls of GetTenant that the gateway has and has not answered."""
    labels = {"method": f"/{TENANTS}/GetTenant"}
    return door.metrics.registry.get_sample_value("headrace_rpc_in_flight", labels)


async def test_closing_says_not_serving_ends_watches_and_lets_a_running_call_finish(quota_alone: Backends) -> None:
    async with open_door(quota_alone, HEADRACE_SHUTDOWN_GRACE_S="60") as door:
        await get_tenant(door)
        seen: list[health_pb2.HealthCheckResponse] = []
        health: Any = health_pb2_grpc.HealthStub(door.channel)
        watching = asyncio.ensure_future(watch(health.Watch(health_pb2.HealthCheckRequest()), seen))
        runners = mesh_pb2_grpc.MeshServiceStub(door.channel).WatchRunners(
            mesh_pb2.WatchRunnersRequest(), metadata=COMMUNITY
        )
        reading = asyncio.ensure_future(runners.read())
        await eventually(lambda: bool(seen))
        with frozen(quota_pid(quota_alone)):
            running = get_tenant(door)
            waiting = asyncio.ensure_future(_wait(running))
            await eventually(lambda: tenants_asked_for(door) == 1)
            closing = asyncio.ensure_future(door.gateway.close())
            failure = await failure_of(reading)
            assert failure.reason == "SERVER_DRAINING"
            assert not closing.done()
        assert (await running).tenant.id == "community"
        await waiting
        started = time.monotonic()
        await closing
        assert time.monotonic() - started < 30, "half of the grace"
        with pytest.raises(grpc.aio.AioRpcError):
            await watching
        assert seen[-1].status == health_pb2.HealthCheckResponse.NOT_SERVING


def start_gateway(backends: Backends, log: Path, **variables: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    argv = command_as(Unprivileged(0, 0), [sys.executable, "-m", "headrace_gateway"])
    with log.open("wb") as output:
        return subprocess.Popen(argv, env={**kept, **backends.environment(), **variables}, stdout=output, stderr=output)


async def test_process_refuses_the_community_key_beside_a_reachable_listener(
    quota_alone: Backends, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    process = start_gateway(quota_alone, log, HEADRACE_GATEWAY_GRPC_ADDRESS="0.0.0.0:0")
    assert await asyncio.to_thread(process.wait, 60) == 2
    said = log.read_text()
    assert "HEADRACE_GATEWAY_COMMUNITY" in said
    assert "0.0.0.0:0" in said
    assert "Traceback" not in said


async def test_taken_port_is_said_and_ends_the_process(quota_alone: Backends, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start_gateway(quota_alone, log, HEADRACE_GATEWAY_GRPC_ADDRESS=quota_alone.quota.address)
    assert await asyncio.to_thread(process.wait, 60) == 1
    said = log.read_text()
    assert "LISTEN_FAILED" in said
    assert quota_alone.quota.address in said
    assert "Traceback" not in said


async def test_sigterm_ends_the_process_with_exit_code_0(quota_alone: Backends, tmp_path: Path) -> None:
    port, log = HeldPort(), tmp_path / "log"
    process = start_gateway(
        quota_alone, log, HEADRACE_GATEWAY_GRPC_ADDRESS=port.address, HEADRACE_SHUTDOWN_GRACE_S="60"
    )
    try:
        await eventually(lambda: listens(port.number), within_s=60)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0, log.read_text()
    finally:
        stop(process, signal.SIGKILL)
        port.close()
