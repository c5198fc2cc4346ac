"""Mutual TLS between the runtimes, with certificates made here and replaced under running calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.errors import ConfigError, RouteUnavailable
from headrace_common.grpc_client import Caller, open_channel
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime
from headrace_common.tls import Tls
from headrace_common.tls_files import TlsFiles
from support.certificates import Authority


class Ticker(grpc.GenericRpcHandler):
    """A stream that tells who listens, and goes on for as long as it is let."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != "/test.Ticker/Tick":
            return None

        async def tick(_request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
            who: Any = context.auth_context()
            yield who["x509_common_name"][0]
            await self.go_on.wait()
            yield b"and to the end"

        return grpc.unary_stream_rpc_method_handler(tick)  # pyright: ignore


@asynccontextmanager
async def listening(tls: Tls) -> AsyncGenerator[tuple[str, Ticker]]:
    ticker = Ticker()
    server = GrpcServer(
        listeners=[Listener(address="127.0.0.1:0", tls=tls)],
        handlers=[ticker],
        runtime=RpcRuntime(registry=CollectorRegistry()),
    )
    (address,) = await server.start()
    try:
        yield address, ticker
    finally:
        await server.stop(0)


async def check(channel: grpc.aio.Channel) -> int:
    answer = await Caller(channel=channel, timeout_s=60).unary(
        "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse
    )
    return answer.status


async def check_anew(address: str, files: TlsFiles | None) -> int:
    tls = Tls(files=files) if files is not None else None
    async with open_channel(address, tls=tls, own_connection=True) as channel:
        return await check(channel)


async def tick(channel: grpc.aio.Channel) -> Any:
    """The stream, and who it says that we are."""
    method: Any = channel.unary_stream("/test.Ticker/Tick")  # pyright: ignore[reportUnknownVariableType]
    call = method(b"", timeout=120)
    return call, await call.read()


def take(tls: Tls) -> None:
    """As `run` does in two seconds."""
    tls.look()
    tls.look()


async def test_only_peers_of_the_same_authority_get_in(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    async with listening(Tls(files=ours.issue("server"))) as (address, _):
        assert await check_anew(address, ours.issue("client")) == health_pb2.HealthCheckResponse.SERVING
        stranger = foreign.issue("stranger")
        for refused in (
            None,
            TlsFiles(authorities=ours.file),
            foreign.issue("suspicious"),
            TlsFiles(certificate=stranger.certificate, key=stranger.key, authorities=ours.file),
        ):
            with pytest.raises(RouteUnavailable):
                await check_anew(address, refused)


async def test_certificates_of_both_sides_are_replaced_under_a_call_that_goes_on(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    server, client = Tls(files=ours.issue("server")), Tls(files=ours.issue("client"))
    async with (
        listening(server) as (address, ticker),
        open_channel(address, tls=client, own_connection=True) as channel,
    ):
        kept_method: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        begun, who = await tick(channel)
        assert who == b"client"
        # Another authority altogether: whoever still used what was before would not get in.
        other = Authority(tmp_path, "other")
        for name, tls in (("server", server), ("client", client)):
            fresh = other.issue(f"new-{name}")
            for old, new in ((tls.files.certificate, fresh.certificate), (tls.files.key, fresh.key)):
                assert isinstance(old, Path) and isinstance(new, Path)
                new.replace(old)
        ours.file.write_bytes(other.file.read_bytes())
        take(server)
        take(client)
        assert (server.reloads, client.reloads) == (1, 1)
        later, who = await tick(channel)
        assert who == b"new-client"
        answer = await kept_method(health_pb2.HealthCheckRequest().SerializeToString(), timeout=60)
        assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING
        ticker.go_on.set()
        for call in (begun, later):
            assert await call.read() == b"and to the end"
            assert await call.read() is grpc.aio.EOF


async def test_a_stream_outlives_the_channel_that_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_common.reloading_channel._LINGER_S", 0.0)
    ours = Authority(tmp_path, "ours")
    client = Tls(files=ours.issue("client"))
    async with (
        listening(Tls(files=ours.issue("server"))) as (address, ticker),
        open_channel(address, tls=client, own_connection=True) as channel,
    ):
        begun, _ = await tick(channel)
        ours.issue("client")
        take(client)
        assert await check(channel) == health_pb2.HealthCheckResponse.SERVING
        await asyncio.sleep(0)
        ticker.go_on.set()
        assert await begun.read() == b"and to the end"


async def test_bad_files_change_nothing_and_are_counted(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    server = Tls(files=ours.issue("server"))
    files = server.files
    assert files.certificate is not None and isinstance(files.key, Path) and files.authorities is not None
    client = ours.issue("client")
    async with listening(server) as (address, _):
        good = {path: path.read_bytes() for path in (files.certificate, files.key, files.authorities)}
        bad = {
            files.certificate: [b"", b"nothing of the kind", good[files.certificate][:200]],
            files.key: [foreign.issue("x").key.read_bytes(), b""],  # pyright: ignore
            files.authorities: [b"-----BEGIN CERTIFICATE-----\n"],
        }
        expected = 0
        for path, contents in bad.items():
            for content in contents:
                path.write_bytes(content)
                take(server)
                expected += 1
                assert (server.refused, server.reloads) == (expected, 0)
                assert await check_anew(address, client) if path is not files.authorities else True
            path.write_bytes(good[path])
            take(server)
        ours.issue("server", ends_in=timedelta(hours=-1))
        take(server)
        assert server.refused == expected + 1
        files.certificate.unlink()
        take(server)
        assert server.refused == expected + 2
        ours.issue("server")
        take(server)
        assert server.reloads == 1
        assert await check_anew(address, client) == health_pb2.HealthCheckResponse.SERVING


async def test_files_that_are_still_being_written_are_waited_for(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    tls = Tls(files=ours.issue("server"))
    before = tls.material
    ours.issue("server")
    tls.look()
    ours.issue("server")
    tls.look()
    assert tls.material is before
    tls.look()
    assert (tls.reloads, tls.refused) == (1, 0)
    take(tls)
    assert tls.reloads == 1


def test_a_listener_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Tls(files=TlsFiles(authorities=Authority(tmp_path, "ours").file)).server_credentials()
    assert caught.value.entry is catalogue.SETTING_MISSING
