"""Asks the service of this machine whether it serves: what a container's health check runs.

The address comes from the service's ready file (HEADRACE_READY_FILE). A service with a gRPC listener is asked over
grpc.health.v1, with the service's own certificate where it demands one; one of HTTP for /ready; one without either (a
runner), or with TLS of another kind, is asked for its metrics page.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace_common.errors import ConfigError
from headrace_common.tls import channel_credentials
from headrace_common.tls_files import TlsFiles

_TIMEOUT_S = 3.0


def probe(ready_file: Path, *, tls: bool, files: TlsFiles | None = None) -> str:
    """Why the service doesn't serve, or an empty text when it does. Waits 3 s at most for its answer.

    Args:
        ready_file: What the service wrote when it began to serve.
        tls: Whether its listener has TLS.
        files: The certificate that its gRPC listener has and demands; None where those are others.
    """
    try:
        endpoints = cast("Mapping[str, Any]", json.loads(ready_file.read_text()))
    except (OSError, ValueError):
        return f"{ready_file} can't be read: the service has not started"
    address, metrics = endpoints.get("grpc"), endpoints.get("metrics")
    if isinstance(address, str) and (not tls or files is not None):
        return _ask_health(address, files if tls else None)
    http = endpoints.get("http")
    if isinstance(http, str) and not tls:
        return _ask_page(f"{http}/ready")
    return _ask_page(metrics) if isinstance(metrics, str) else f"{ready_file} names no address"


def _ask_health(address: str, files: TlsFiles | None) -> str:
    try:
        opened = _channel(address, files)
    except ConfigError as error:
        return error.message
    with opened as channel:
        try:
            # The stub of the health package is untyped.
            stub = cast("Any", health_pb2_grpc.HealthStub(channel))
            answer: health_pb2.HealthCheckResponse = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{address} does not answer: {cast('Any', error).code().name}"
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return "" if serving else f"{address} is not serving"


def _channel(address: str, files: TlsFiles | None) -> grpc.Channel:
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if files is None:
        return grpc.insecure_channel(address, options=options)
    material = files.read()
    names = x509.load_pem_x509_certificate(material.certificate or b"").extensions
    hosts = names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    # The service's certificate is for the names by which others reach it, not for an address of its own.
    known_as = [("grpc.ssl_target_name_override", hosts[0])] if hosts else []
    return grpc.secure_channel(address, channel_credentials(material), options=[*options, *known_as])


def _ask_page(url: str) -> str:
    if not url.startswith("http://"):
        return f"{url} is not an http:// address"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as answer:
            return "" if answer.status == 200 else f"{url} answered {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        return f"{url} does not answer: {type(error).__name__}"


def _listens_with_tls(environ: Mapping[str, str]) -> bool:
    public = environ.get("HEADRACE_GATEWAY_PUBLIC_TLS", "true").lower() not in ("false", "0", "no", "off", "f", "n")
    own = environ.get("HEADRACE_TLS_CERTIFICATE_FILE") or environ.get("HEADRACE_GATEWAY_PUBLIC_TLS_CERTIFICATE_FILE")
    return public and bool(own)


def _own_files(environ: Mapping[str, str]) -> TlsFiles | None:
    """What a listener inside the mesh has; that of a gateway for clients may have something else."""
    certificate, key, authorities = (environ.get(f"HEADRACE_TLS_{part}_FILE") for part in ("CERTIFICATE", "KEY", "CA"))
    if not (certificate and key and authorities) or "HEADRACE_GATEWAY_GRPC_ADDRESS" in environ:
        return None
    return TlsFiles(certificate=Path(certificate), key=key, authorities=Path(authorities))


def main() -> int:
    """Exit code 0 when the service serves; else 1, with the reason on stderr."""
    ready_file = os.environ.get("HEADRACE_READY_FILE")
    if not ready_file:
        print("HEADRACE_READY_FILE is not set", file=sys.stderr)
        return 1
    problem = probe(Path(ready_file), tls=_listens_with_tls(os.environ), files=_own_files(os.environ))
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
