"""Asks the service of this machine whether it serves: what a container's health check runs.

The address comes from the service's ready file (HEADRACE_READY_FILE). A service with a gRPC listener in plaintext is
asked over grpc.health.v1, one of HTTP for /ready; one without either (a runner), or with TLS, is asked for its metrics
page.
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
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 3.0


def probe(ready_file: Path, *, tls: bool) -> str:
    """Why the service doesn't serve, or an empty text when it does. Waits 3 s at most for its answer."""
    try:
        endpoints = cast("Mapping[str, Any]", json.loads(ready_file.read_text()))
    except (OSError, ValueError):
        return f"{ready_file} can't be read: the service has not started"
    address, metrics = endpoints.get("grpc"), endpoints.get("metrics")
    if isinstance(address, str) and not tls:
        return _ask_health(address)
    http = endpoints.get("http")
    if isinstance(http, str) and not tls:
        return _ask_page(f"{http}/ready")
    return _ask_page(metrics) if isinstance(metrics, str) else f"{ready_file} names no address"


def _ask_health(address: str) -> str:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            # The stub of the health package is untyped.
            stub = cast("Any", health_pb2_grpc.HealthStub(channel))
            answer: health_pb2.HealthCheckResponse = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{address} does not answer: {cast('Any', error).code().name}"
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return "" if serving else f"{address} is not serving"


def _ask_page(url: str) -> str:
    if not url.startswith("http://"):
        return f"{url} is not an http:// address"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as answer:
            return "" if answer.status == 200 else f"{url} answered {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        return f"{url} does not answer: {type(error).__name__}"


def main() -> int:
    """Exit code 0 when the service serves; else 1, with the reason on stderr."""
    ready_file = os.environ.get("HEADRACE_READY_FILE")
    if not ready_file:
        print("HEADRACE_READY_FILE is not set", file=sys.stderr)
        return 1
    problem = probe(Path(ready_file), tls=bool(os.environ.get("HEADRACE_TLS_CERTIFICATE_FILE")))
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
