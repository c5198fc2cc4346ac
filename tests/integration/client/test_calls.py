"""Deadlines, retries, cancellation and reconnects of single calls, over real connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from headrace_client import NO_RETRIES, AsyncClient, InferResult, RetryPolicy, Tls, rpcs
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2, mesh_pb2
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_client.errors import (
    CallCancelled,
    ConfigError,
    DeadlineError,
    HeadraceError,
    InternalError,
    ModelError,
    RunnerUnavailable,
    UnreachableError,
    ValidationError,
)
from headrace_common import catalogue
from headrace_common.errors import DeadlineError as DeadlineFailure
from headrace_common.errors import ModelError as ModelFailure
from headrace_common.errors import RunnerUnavailable as RunnerFailure
from support.breaking_proxy import breaking_proxy
from support.certificates import Authority
from support.eventually import eventually
from support.processes import HeldPort
from support.scripted_mesh import ScriptedMesh, Unary, serving

SOON = RetryPolicy(initial_s=0.01, max_s=0.02)


def answer() -> bytes:
    message = inference_pb2.InferResponse()
    message.response.model_name = "m"
    message.response.outputs.add(name="z", datatype="INT8", shape=[1])
    message.response.raw_output_contents.append(b"\7")
    return message.SerializeToString()


def failing(times: int, failure: HeadraceError | Exception) -> Unary:
    """Fails so many times, then answers."""
    left = [failure] * times

    async def infer(request: bytes) -> bytes:
        if left:
            raise left.pop()
        return answer()

    return infer


async def hanging(request: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


def infer_mesh(infer: Unary) -> ScriptedMesh:
    return ScriptedMesh(unary={rpcs.INFER.path: infer})


async def infer(client: AsyncClient, timeout_s: float | None = None) -> InferResult:
    return await client.infer("m", {"x": np.zeros(1)}, timeout_s=timeout_s)


async def test_a_failure_that_may_pass_is_retried_within_the_same_deadline() -> None:
    mesh = infer_mesh(failing(2, RunnerFailure("gone", retry_after_s=0.2)))
    async with serving(mesh) as address, AsyncClient(address, retry=SOON) as client:
        assert (await infer(client, timeout_s=5))["z"].tolist() == [7]
    first, second, third = (call.left_s or 0 for call in mesh.calls)
    # gRPC rounds a timeout of seconds up to hundredths on the wire, so the server may see a little more than was sent.
    assert first < 5.05
    assert second < first - 0.15
    assert third < second - 0.15


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(ModelFailure("no such model"), ModelError), (RuntimeError("secret"), InternalError)],
    ids=["refused", "broken"],
)
async def test_a_failure_that_will_stay_is_told_at_once(failure: Exception, kind: type[HeadraceError]) -> None:
    mesh = infer_mesh(failing(1, failure))
    async with serving(mesh) as address, AsyncClient(address, retry=SOON) as client:
        with pytest.raises(HeadraceError) as caught:
            await infer(client)
    assert (type(caught.value), len(mesh.calls)) == (kind, 1)


async def test_a_call_that_a_mesh_cancelled_is_over() -> None:
    mesh = infer_mesh(failing(1, DeadlineFailure("cancelled", entry=catalogue.CALL_CANCELLED)))
    async with serving(mesh) as address, AsyncClient(address, retry=SOON) as client:
        with pytest.raises(CallCancelled):
            await infer(client)
    assert len(mesh.calls) == 1


async def test_a_call_carries_its_trace() -> None:
    mesh = infer_mesh(failing(1, RunnerFailure("gone")))
    traceparent = f"00-{'1' * 32}-{'2' * 16}-01"
    async with serving(mesh) as address, AsyncClient(address, retry=SOON) as client:
        await client.infer("m", {"x": np.zeros(1)}, traceparent=traceparent)
        with pytest.raises(ValidationError):
            await client.infer("m", {"x": np.zeros(1)}, traceparent="00-1")
    assert [call.metadata["traceparent"] for call in mesh.calls] == [traceparent] * 2


async def test_tries_end_with_the_last_failure() -> None:
    mesh = infer_mesh(failing(10, RunnerFailure("gone")))
    async with serving(mesh) as address, AsyncClient(address, retry=SOON) as client:
        with pytest.raises(RunnerUnavailable):
            await infer(client)
    assert len(mesh.calls) == 4


async def test_no_retries_means_none() -> None:
    mesh = infer_mesh(failing(1, RunnerFailure("gone")))
    async with serving(mesh) as address, AsyncClient(address, retry=NO_RETRIES) as client:
        with pytest.raises(RunnerUnavailable):
            await infer(client)
    assert len(mesh.calls) == 1


async def test_a_request_of_a_sequence_is_never_sent_twice() -> None:
    """The state may have moved on although no answer came."""
    mesh = infer_mesh(failing(10, RunnerFailure("gone")))
    async with serving(mesh) as address, AsyncClient(address, retry=SOON) as client:
        for name, calls in (("talk", 1), (0, 5)):
            with pytest.raises(RunnerUnavailable):
                await client.infer("m", {"x": np.zeros(1)}, parameters={"sequence_id": name, "sequence_start": True})
            assert len(mesh.calls) == calls


async def test_a_pause_beyond_the_deadline_is_not_begun() -> None:
    mesh = infer_mesh(failing(10, RunnerFailure("gone", retry_after_s=100)))
    started_at = time.monotonic()
    async with serving(mesh) as address, AsyncClient(address, retry=SOON) as client:
        with pytest.raises(RunnerUnavailable) as caught:
            await infer(client, timeout_s=60)
    assert caught.value.retry_after_s == 100
    assert time.monotonic() - started_at < 30
    assert len(mesh.calls) == 1


async def test_a_key_is_never_asked_for_twice() -> None:
    async def create(request: bytes) -> bytes:
        raise RunnerFailure("may have made it")

    mesh = ScriptedMesh(unary={rpcs.CREATE_API_KEY.path: create})
    async with serving(mesh) as address, AsyncClient(address, retry=SOON) as client:
        with pytest.raises(RunnerUnavailable):
            await client.keys.create()
    assert len(mesh.calls) == 1


async def test_every_call_carries_its_deadline() -> None:
    mesh = infer_mesh(failing(0, RuntimeError()))
    async with serving(mesh) as address, AsyncClient(address, timeout_s=80) as client:
        for timeout_s in (None, 40):
            await infer(client, timeout_s=timeout_s)
    own, stated = (call.left_s or 0 for call in mesh.calls)
    # What is left when a call arrives depends on how busy the machine is, and gRPC rounds it up on the wire.
    assert 60 < own < 81 and 20 < stated < 41


async def test_every_call_ends_by_its_deadline() -> None:
    async with serving(infer_mesh(hanging)) as address, AsyncClient(address, timeout_s=0.6) as client:
        for timeout_s in (None, 0.3):
            with pytest.raises(DeadlineError):
                await infer(client, timeout_s=timeout_s)


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), 0, -1])
async def test_a_deadline_that_is_no_time_is_refused_before_anything_is_sent(timeout_s: float) -> None:
    with pytest.raises(ValidationError):
        AsyncClient("127.0.0.1:1", timeout_s=timeout_s)
    mesh = infer_mesh(failing(0, RuntimeError()))
    async with serving(mesh) as address, AsyncClient(address) as client:
        with pytest.raises(ValidationError):
            await infer(client, timeout_s=timeout_s)
    assert mesh.calls == []


async def test_cancelling_the_task_cancels_the_call() -> None:
    mesh = infer_mesh(hanging)
    async with serving(mesh) as address, AsyncClient(address) as client:
        task = asyncio.create_task(infer(client))
        await eventually(lambda: len(mesh.calls) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: mesh.cancelled == 1)


async def test_closing_the_client_ends_its_calls_with_an_error_of_their_own() -> None:
    mesh = infer_mesh(hanging)
    async with serving(mesh) as address:
        client = AsyncClient(address)
        task = asyncio.create_task(infer(client))
        await eventually(lambda: len(mesh.calls) == 1)
        await client.close()
        with pytest.raises(CallCancelled):
            await task
        with pytest.raises(CallCancelled):
            await infer(client)
        await client.close()


async def test_a_mesh_that_comes_back_is_found_again(port: HeldPort) -> None:
    mesh, address = infer_mesh(failing(0, RuntimeError())), port.address
    async with serving(mesh, address=address):
        client = AsyncClient(address, retry=NO_RETRIES)
        await infer(client)
    with pytest.raises(UnreachableError) as caught:
        await infer(client)
    assert caught.value.context == {"endpoint": address}
    patient = AsyncClient(address, retry=RetryPolicy(attempts_max=8, initial_s=0.1))
    waiting = asyncio.create_task(infer(patient, timeout_s=60))
    async with serving(mesh, address=address):
        await waiting

        async def found() -> bool:
            try:
                return bool(await infer(client))
            except UnreachableError:
                return False

        give_up_at = time.monotonic() + 30
        while not await found():
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.05)
        await asyncio.gather(client.close(), patient.close())


async def test_a_mesh_that_takes_a_moment_to_greet_is_waited_for() -> None:
    async with (
        serving(infer_mesh(failing(0, RuntimeError()))) as address,
        breaking_proxy(address, pause_s=0.5) as slow,
        AsyncClient(slow.address, retry=NO_RETRIES) as client,
    ):
        assert (await infer(client))["z"].tolist() == [7]


async def test_credential_and_request_id_travel_in_the_metadata() -> None:
    mesh = infer_mesh(failing(0, RuntimeError()))
    async with serving(mesh) as address:
        async with AsyncClient(address, api_key="secret") as client:
            await client.infer("m", {}, request_id="r-1")
        async with AsyncClient(address, api_key="") as client:
            await client.infer("m", {})
    first, second = (call.metadata for call in mesh.calls)
    assert (first["x-api-key"], first["x-request-id"]) == ("secret", "r-1")
    assert str(first["user-agent"]).startswith("headrace-client")
    assert "x-api-key" not in second
    assert "x-request-id" not in second


async def test_an_answer_that_is_no_message_is_an_internal_error() -> None:
    async def nonsense(request: bytes) -> bytes:
        return b"\xff\xff\xff"

    async with serving(infer_mesh(nonsense)) as address, AsyncClient(address) as client:
        with pytest.raises(InternalError):
            await infer(client)


async def test_an_answer_that_is_larger_than_accepted_says_so() -> None:
    async def large(request: bytes) -> bytes:
        return bytes(2 << 20)

    async with serving(infer_mesh(large)) as address, AsyncClient(address, message_bytes_max=1 << 16) as client:
        with pytest.raises(ValidationError) as caught:
            await infer(client)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


async def test_lists_are_fetched_page_after_page() -> None:
    async def page(request: bytes) -> bytes:
        token = tenants_pb2.ListTenantsRequest.FromString(request).page_token or "0"
        following = str(int(token) + 1) if int(token) < 2 else ""
        return tenants_pb2.ListTenantsResponse(
            tenants=[tenants_pb2.Tenant(id=f"t{token}")], next_page_token=following
        ).SerializeToString()

    mesh = ScriptedMesh(unary={rpcs.LIST_TENANTS.path: page})
    async with serving(mesh) as address, AsyncClient(address) as client:
        assert [tenant.id for tenant in await client.tenants.list()] == ["t0", "t1", "t2"]


async def test_leaving_a_watch_ends_it_at_the_mesh() -> None:
    async def watch(request: bytes) -> AsyncIterator[bytes]:
        for name in ("a", "b"):
            yield mesh_pb2.WatchRunnersResponse(runner=mesh_pb2.Runner(name=name)).SerializeToString()
        await asyncio.Event().wait()

    mesh = ScriptedMesh(responses={rpcs.WATCH_RUNNERS.path: watch})
    async with serving(mesh) as address, AsyncClient(address) as client:
        changes = client.runners.watch()
        assert [(await anext(changes)).runner.name for _ in "ab"] == ["a", "b"]
        await changes.aclose()
        await eventually(lambda: mesh.cancelled == 1)
        assert mesh.calls[0].left_s is None


async def test_tls_trusts_the_named_authority_and_shows_a_certificate(tmp_path: Path) -> None:
    authority, foreign = Authority(tmp_path, "authority"), Authority(tmp_path, "foreign")
    files, own = authority.issue("server"), authority.issue("client")
    assert isinstance(files.key, Path)
    assert isinstance(own.key, Path)
    assert files.certificate is not None
    credentials = grpc.ssl_server_credentials(
        [(files.key.read_bytes(), files.certificate.read_bytes())], authority.file.read_bytes(), True
    )
    good = Tls(ca_file=authority.file, cert_file=own.certificate, key_file=own.key)
    async with serving(infer_mesh(failing(0, RuntimeError())), credentials=credentials) as address:
        async with AsyncClient(f"https://{address}", tls=good) as client:
            assert (await infer(client)).model == "m"
        for tls in (Tls(ca_file=foreign.file), Tls(ca_file=authority.file), True, False):
            async with AsyncClient(address, tls=tls, retry=NO_RETRIES) as client:
                with pytest.raises(UnreachableError):
                    await infer(client)
    async with AsyncClient("https://mesh:1", tls=Tls(ca_file=tmp_path / "absent.pem")) as client:
        with pytest.raises(ConfigError, match=r"absent\.pem"):
            await infer(client)
