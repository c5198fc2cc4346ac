"""Whether the front and the mesh behind it live and serve, what they are, and what all routes take."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

import orjson
from fastapi import APIRouter
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from headrace_client import rpcs
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import HeadraceError
from headrace_common import catalogue
from headrace_common.request_id import new_request_id
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.failures import failed
from headrace_gateway.http.front import Front
from headrace_gateway.http.sessions import CallContext

_READY_TIMEOUT_S = 2.0
_DOCS = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Headrace: HTTP API</title>
<style>body{font:16px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em}code{background:#eee}
td,th{text-align:left;padding:.2em 1em .2em 0;vertical-align:top}</style>
<h1>HTTP API</h1><p>The machine-readable form is <a href="openapi">/openapi</a> (OpenAPI 3.1).</p>
<table id="routes"><tr><th>Route<th>What it does</table>
<script>
fetch("openapi").then(answer => answer.json()).then(api => {
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, about] of Object.entries(methods)) {
    const row = document.getElementById("routes").insertRow(), name = document.createElement("code")
    name.textContent = method.toUpperCase() + " " + path
    row.insertCell().append(name)
    row.insertCell().textContent = about.summary || ""
  }
})
</script></html>
"""

router = APIRouter(tags=["health"])


async def gateway_is_ready(front: Front) -> bool:
    """Whether the gateway takes calls."""
    call = CallContext(request_id=new_request_id(), timeout_s=_READY_TIMEOUT_S)
    session = front.sessions.session(front.own_headers)
    try:
        answer = await session.unary(rpcs.SERVER_READY, open_inference_pb2.ServerReadyRequest(), call=call)
    except HeadraceError:
        return False
    return answer.ready


@router.get("/health", summary="Whether the front lives")
@router.get("/q/health/live", summary="Whether the front lives", include_in_schema=False)
async def live() -> Response:
    return _status(up=True)


@router.get("/ready", summary="Whether calls would be served")
@router.get("/q/health", summary="Whether calls would be served", include_in_schema=False)
@router.get("/q/health/ready", summary="Whether calls would be served", include_in_schema=False)
async def ready(front: CurrentFront) -> Response:
    return _status(up=not front.draining.is_set() and await gateway_is_ready(front))


@router.get("/info", summary="What the mesh is")
async def info(session: CurrentSession, call: CurrentCall) -> dict[str, Any]:
    answer = await session.unary(rpcs.SERVER_METADATA, open_inference_pb2.ServerMetadataRequest(), call=call)
    return {
        "name": answer.name,
        "version": answer.version,
        "extensions": list(answer.extensions),
        "frontVersion": installed_version("headrace-gateway"),
    }


@router.get("/metrics", summary="What the front counts, for Prometheus", response_class=PlainTextResponse)
@router.get("/q/metrics", include_in_schema=False)
async def metrics(front: CurrentFront) -> Response:
    return Response(generate_latest(front.registry), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/errors/{reason}", summary="What an error code means, and what to do about it")
async def explain(reason: str) -> dict[str, Any]:
    entry = catalogue.BY_REASON.get(reason)
    if entry is None:
        raise failed(catalogue.PATH_UNKNOWN, "there is no such error code", context={"path": f"/errors/{reason[:100]}"})
    return {
        "errorCode": entry.reason,
        "code": entry.code,
        "httpStatus": entry.http,
        "retryable": entry.retryable,
        "summary": entry.summary,
        "remedy": entry.remedy,
        "context": list(entry.context),
    }


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    del request
    return HTMLResponse(_DOCS)


def _status(*, up: bool) -> Response:
    body = orjson.dumps({"status": "UP" if up else "DOWN"})
    return Response(body, status_code=200 if up else 503, media_type="application/json")
