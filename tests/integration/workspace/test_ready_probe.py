"""The containers' health check says what a real health service and a real metrics page say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from headrace_cli.certificates.files import CertificateFiles, make_certificates, wanted_of
from headrace_common.metrics import Metrics
from headrace_common.ready_probe import main, probe
from headrace_common.tls import Tls
from headrace_common.tls_files import TlsFiles

_DAY = timedelta(days=1)


@pytest.fixture
async def health(tmp_path: Path) -> AsyncIterator[tuple[HealthServicer, Path]]:
    """A gRPC health service and the ready file that names it."""
    server = grpc.aio.server()
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready_file = tmp_path / "ready.json"
    ready_file.write_text(json.dumps({"grpc": f"127.0.0.1:{port}", "metrics": None}))
    yield servicer, ready_file
    await server.stop(None)


async def _problem(ready_file: Path, *, tls: bool = False) -> str:
    return await asyncio.to_thread(probe, ready_file, tls=tls)


async def test_serving_service_passes_and_draining_one_fails(health: tuple[HealthServicer, Path]) -> None:
    servicer, ready_file = health
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert await _problem(ready_file) == ""
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert "is not serving" in await _problem(ready_file)


async def test_service_that_demands_certificates_is_asked_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("quota", "stranger")
    folders = [CertificateFiles(tmp_path / name) for name in asked]
    for folder in folders:
        make_certificates(
            folder, {"quota": wanted_of("quota")}, now=datetime.now(UTC), authority_lasts=_DAY, lasts=_DAY
        )
    own, foreign = [
        TlsFiles(certificate=folder.certificate("quota"), key=folder.key("quota"), authorities=folder.certificate("ca"))
        for folder in folders
    ]
    server = grpc.aio.server()
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", Tls(files=own).server_credentials())
    await server.start()
    ready_file = tmp_path / "ready.json"
    ready_file.write_text(json.dumps({"grpc": f"127.0.0.1:{port}", "metrics": None}))
    for name, part in (("CERTIFICATE", own.certificate), ("KEY", own.key), ("CA", own.authorities)):
        monkeypatch.setenv(f"HEADRACE_TLS_{name}_FILE", str(part))
    monkeypatch.setenv("HEADRACE_READY_FILE", str(ready_file))
    assert await asyncio.to_thread(main) == 0
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert await asyncio.to_thread(main) == 1
    assert "does not answer" in await asyncio.to_thread(probe, ready_file, tls=True, files=foreign)
    await server.stop(None)


async def test_service_without_listener_is_asked_for_its_metrics(tmp_path: Path) -> None:
    metrics = Metrics()
    ready_file = tmp_path / "ready.json"
    ready_file.write_text(json.dumps({"grpc": None, "metrics": metrics.start("127.0.0.1:0")}))
    assert await _problem(ready_file) == ""
    await metrics.close()
    assert "does not answer" in await _problem(ready_file)


def test_service_that_has_not_started_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_READY_FILE", str(tmp_path / "absent.json"))
    assert main() == 1
    assert "has not started" in capsys.readouterr().err
