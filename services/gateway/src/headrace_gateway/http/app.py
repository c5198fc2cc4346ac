"""Composition root: what an HTTP front is made of, how it starts and how it ends."""

from __future__ import annotations

import asyncio
from importlib.metadata import version as installed_version
from pathlib import Path

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from headrace_client.errors import HeadraceError
from headrace_client.options import ClientOptions, Tls
from headrace_common.access_log import AccessLog
from headrace_common.addresses import is_loopback
from headrace_common.metrics import Metrics
from headrace_common.ready_file import write_ready_file
from headrace_common.service_main import Stop
from headrace_common.tasks import TaskGuard
from headrace_common.tls import Tls as ReloadedTls
from headrace_common.tls import TlsMetrics
from headrace_common.tls_files import TlsFiles
from headrace_gateway.http import (
    failures,
    generate_routes,
    health_routes,
    infer_routes,
    job_routes,
    key_routes,
    model_routes,
    open_inference_routes,
    quota_routes,
    repository_routes,
    runner_routes,
    stream_routes,
    tenant_routes,
    usage_routes,
)
from headrace_gateway.http.bodies import Bodies, BodyLimits
from headrace_gateway.http.compression import Compression
from headrace_gateway.http.config import HttpSettings, check_settings
from headrace_gateway.http.description import describe
from headrace_gateway.http.envelope import Envelope
from headrace_gateway.http.front import Front
from headrace_gateway.http.health_routes import gateway_is_ready
from headrace_gateway.http.hot_paths import HotPaths
from headrace_gateway.http.http_metrics import HttpMetrics
from headrace_gateway.http.openai import routes as openai_routes
from headrace_gateway.http.server import HttpServer
from headrace_gateway.http.server_protocol import ConnectionLimits
from headrace_gateway.http.server_sent_events import OpenStreams
from headrace_gateway.http.sessions import Session, Sessions
from headrace_gateway.http.streamed_inference import ASKS_EXECUTION
from headrace_gateway.http.uploads import Uploads

ROUTERS = (
    health_routes.router,
    infer_routes.router,
    job_routes.router,
    stream_routes.router,
    openai_routes.router,
    repository_routes.router,
    open_inference_routes.router,
    model_routes.router,
    tenant_routes.router,
    quota_routes.router,
    usage_routes.router,
    key_routes.router,
    runner_routes.router,
    generate_routes.router,
)
_EXPOSED_HEADERS = ("x-request-id", "retry-after", "inference-header-content-length")
_READY_PAUSE_S = 0.1
_NOTICE_S = 0.5
_LAST_WORDS_S = 1.0


def application(front: Front) -> ASGIApp:
    """Everything that answers requests, for any ASGI server."""
    return Envelope(app=_around(HotPaths(app=routes(front)), front), metrics=front.metrics, log=front.access_log)


def routes(front: Front) -> FastAPI:
    """The routes, with the one way in which all of them fail."""
    app = FastAPI(
        title="Headrace",
        version=installed_version("headrace-gateway"),
        description="Inference, models, tenants and keys over HTTP.",
        openapi_url="/openapi",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HeadraceError: failures.on_headrace_error,
            RequestValidationError: failures.on_invalid_request,
            HTTPException: failures.on_router_error,
            Exception: failures.on_unexpected,
        },
    )
    app.state.front = front
    for router in ROUTERS:
        app.include_router(router)
    describe(app)
    return app


def make_front(settings: HttpSettings, metrics: Metrics, gateway_tls: ReloadedTls | None = None) -> Front:
    """What the routes share. Inside a running event loop."""
    local = is_loopback(settings.gateway_address)

    def session(headers: tuple[tuple[str, str], ...]) -> Session:
        options = ClientOptions(
            endpoint=settings.gateway_address,
            api_key=None,
            tls=None if local else _gateway_tls(settings),
            headers=(*headers, ASKS_EXECUTION),
            own_connection=False,
        )
        return Session(options=options, timeout_s=settings.call_timeout_s, message_bytes_max=settings.message_bytes_max)

    # A key that is for this machine only doesn't open the mesh to whoever reaches this listener.
    own_headers = () if is_loopback(settings.address) else (("x-original-host", settings.address),)
    draining = asyncio.Event()
    logged = settings.access_log and settings.log_level in ("debug", "info")
    front = Front(
        settings=settings,
        sessions=Sessions(
            make=session,
            sessions_max=settings.sessions_max,
            certificate=lambda: gateway_tls.material if gateway_tls is not None else None,
        ),
        bodies=Bodies(
            limits=BodyLimits(
                bytes_max=settings.body_bytes_max,
                total_bytes_max=settings.bodies_bytes_max,
                timeout_s=settings.body_timeout_s,
                rate_min=settings.body_rate_min,
            )
        ),
        streams=OpenStreams(streams_max=settings.streams_max, draining=draining),
        uploads=Uploads(folder=settings.state_dir / "uploads", uploads_max=settings.uploads_max),
        metrics=HttpMetrics(registry=metrics.registry),
        registry=metrics.registry,
        access_log=AccessLog(service=settings.service, fmt=settings.log_format) if logged else None,
        own_headers=own_headers,
        draining=draining,
    )
    shown = front.metrics.gauge
    shown("headrace_http_sessions", "Credentials with a connection to the gateway.", lambda: len(front.sessions))
    shown("headrace_http_event_streams", "Streams of events that are open.", lambda: front.streams.open)
    shown("headrace_http_uploads", "Uploads of models under way.", lambda: front.uploads.open)
    shown("headrace_http_body_bytes", "Bytes of requests' bodies held now.", lambda: front.bodies.held_bytes)
    shown(
        "headrace_http_received_bytes",
        "Bytes of requests' bodies received since the start.",
        lambda: front.bodies.received_bytes,
    )
    return front


async def serve(settings: HttpSettings, stop: Stop) -> None:
    """Runs a front until `stop` is requested or a background task dies."""
    check_settings(settings)
    metrics = Metrics()
    gateway_tls, own_tls = ReloadedTls.from_settings(settings), _own_tls(settings)
    certificates = {"internal": gateway_tls, "public": own_tls}
    TlsMetrics(kept=certificates, registry=metrics.registry)
    front = make_front(settings, metrics, gateway_tls)
    server = HttpServer(
        app=application(front),
        limits=ConnectionLimits(
            head_bytes_max=settings.head_bytes_max,
            headers_max=settings.headers_max,
            head_timeout_s=settings.head_timeout_s,
            write_timeout_s=settings.write_timeout_s,
            connections_max=settings.connections_max,
        ),
        idle_timeout_s=settings.idle_timeout_s,
        tls=own_tls,
        refused=front.metrics.refuse,
    )
    front.metrics.gauge("headrace_http_connections", "Connections that are open.", lambda: server.connections)
    async with TaskGuard() as tasks:
        try:
            tasks.spawn(front.sessions.run(), name="sessions")
            for name, tls in certificates.items():
                if tls is not None:
                    tasks.spawn(tls.run(), name=f"{name} certificates")
            tasks.spawn(_start(settings, front, server, metrics), name="start")
            await stop.wait_or_failure(tasks)
        finally:
            await _end(settings, front, server)
            await metrics.close()
            if front.access_log is not None:
                front.access_log.flush()


async def _start(settings: HttpSettings, front: Front, server: HttpServer, metrics: Metrics) -> None:
    """Listens once the gateway takes calls: before that, others may serve a port that is shared."""
    metrics_url = metrics.start(settings.metrics_address)
    await _gateway_serves(front)
    url = await server.start(settings.address, share_port=settings.share_port)
    structlog.stdlib.get_logger("http").info("serving", url=url, gateway=settings.gateway_address)
    write_ready_file(settings.ready_file, name=settings.name, http=url, metrics=metrics_url)


async def _gateway_serves(front: Front) -> None:
    while True:
        if await gateway_is_ready(front):
            return
        await asyncio.sleep(_READY_PAUSE_S)


async def _end(settings: HttpSettings, front: Front, server: HttpServer) -> None:
    """Not ready, a moment in which others notice, no new connections; then streams end, and what is left is cut off."""
    loop, grace_s = asyncio.get_running_loop(), settings.shutdown_grace_s
    end_at = loop.time() + grace_s
    front.draining.set()
    await asyncio.sleep(min(_NOTICE_S, grace_s))
    await server.drain(end_at - _LAST_WORDS_S - loop.time())
    # From now on, not from the beginning: a process that stood still meanwhile has its last words all the same.
    front.streams.ending.set()
    await server.stop(min(_LAST_WORDS_S, grace_s))
    await front.sessions.close()


def _around(app: ASGIApp, front: Front) -> ASGIApp:
    app = Compression(app=app)
    origins = front.settings.cors_origins
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=list(_EXPOSED_HEADERS),
        max_age=600,
    )


def _own_tls(settings: HttpSettings) -> ReloadedTls | None:
    """TLS of the listener. Authorities of the mesh are not those of clients."""
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    return ReloadedTls(
        files=TlsFiles(
            certificate=settings.tls_certificate_file, key=settings.tls_key_file, authorities=settings.client_ca_file
        )
    )


def _gateway_tls(settings: HttpSettings) -> Tls | None:
    if settings.tls_ca_file is None:
        return None
    key = settings.tls_key_file
    return Tls(
        ca_file=settings.tls_ca_file,
        cert_file=settings.tls_certificate_file,
        key_file=Path(key) if key is not None else None,
    )
