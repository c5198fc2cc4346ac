"""Mutual TLS between the runtimes, with certificates made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.errors import ConfigError, RouteUnavailable
from headrace_common.grpc_client import Caller, open_channel
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime
from headrace_common.secrets import write_secret_file
from headrace_common.settings import ServiceSettings
from headrace_common.tls import TlsFiles
from support.certificates import Authority


async def check(address: str, tls: TlsFiles | None) -> int:
    async with open_channel(address, tls=tls, own_connection=True) as channel:
        request = health_pb2.HealthCheckRequest()
        answer = await Caller(channel=channel, timeout_s=30).unary(
            "/grpc.health.v1.Health/Check", request, health_pb2.HealthCheckResponse
        )
    return answer.status


async def test_only_peers_of_the_same_authority_get_in(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    server = GrpcServer(
        listeners=[Listener(address="127.0.0.1:0", tls=ours.issue("server"))],
        handlers=[],
        runtime=RpcRuntime(registry=CollectorRegistry()),
    )
    (address,) = await server.start()
    assert await check(address, ours.issue("client")) == health_pb2.HealthCheckResponse.SERVING
    stranger = foreign.issue("stranger")
    for refused in (
        None,
        TlsFiles(authorities=ours.file),
        foreign.issue("suspicious"),
        TlsFiles(certificate=stranger.certificate, key=stranger.key, authorities=ours.file),
    ):
        with pytest.raises(RouteUnavailable):
            await check(address, refused)
    await server.stop(0)


def test_settings_give_all_none_or_an_error(tmp_path: Path) -> None:
    assert TlsFiles.from_settings(ServiceSettings()) is None
    with pytest.raises(ConfigError, match="HEADRACE_TLS_KEY_FILE"):
        TlsFiles.from_settings(ServiceSettings(tls_certificate_file=tmp_path / "c"))
    with pytest.raises(ConfigError, match="HEADRACE_TLS_CERTIFICATE_FILE"):
        TlsFiles.from_settings(ServiceSettings(tls_key_file=tmp_path / "k"))
    missing = TlsFiles.from_settings(ServiceSettings(tls_key_file=tmp_path / "k", tls_certificate_file=tmp_path / "c"))
    assert missing is not None
    for build in (missing.server_credentials, missing.channel_credentials):
        with pytest.raises(ConfigError, match=f"file://{tmp_path}/k"):
            build()
    write_secret_file(tmp_path / "k", "a key")
    with pytest.raises(ConfigError, match="HEADRACE_TLS_CERTIFICATE_FILE"):
        missing.server_credentials()
    with pytest.raises(ConfigError) as caught:
        TlsFiles(authorities=tmp_path / "a").server_credentials()
    assert caught.value.entry is catalogue.SETTING_MISSING
