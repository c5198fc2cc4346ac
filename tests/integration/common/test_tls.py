"""Mutual TLS between the runtimes, with certificates made here."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.errors import ConfigError, RouteUnavailable
from headrace_common.grpc_client import Caller, open_channel
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime
from headrace_common.secrets import write_secret_file
from headrace_common.settings import ServiceSettings
from headrace_common.tls import TlsFiles


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(self.name, self.key, authority=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> TlsFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        files = TlsFiles(
            certificate=self.directory / f"{name}.crt", key=self.directory / f"{name}.key", authorities=self.file
        )
        assert files.certificate is not None
        assert isinstance(files.key, Path)
        certificate = self._signed(subject, key, authority=False)
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


async def check(address: str, tls: TlsFiles | None) -> int:
    async with open_channel(address, tls=tls, own_connection=True) as channel:
        request = health_pb2.HealthCheckRequest()
        answer = await Caller(channel=channel, timeout_s=3).unary(
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
