"""Composition root: what a gateway process is made of, how it starts and how it ends."""

from __future__ import annotations

import asyncio
import uuid
from importlib.metadata import version as installed_version
from random import Random

from headrace_common.access_log import AccessLog
from headrace_common.allocator import FreedMemory
from headrace_common.catalogue import SETTING_MISSING
from headrace_common.clock import Clock, SystemClock
from headrace_common.errors import ConfigError
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime
from headrace_common.lanes import LANE_OPTIONS, ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.metrics import Metrics
from headrace_common.principal import PrincipalSigner
from headrace_common.ready_file import write_ready_file
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.secrets import read_secret
from headrace_common.service_main import Stop
from headrace_common.tasks import TaskGuard
from headrace_common.tls import Tls, TlsMetrics
from headrace_gateway.accounting.accounting import Accounting
from headrace_gateway.accounting.key_uses import KeyUses
from headrace_gateway.accounting.runner_history import RunnerHistory
from headrace_gateway.accounting.spool_metrics import SpoolMetrics
from headrace_gateway.audit_trail import AuditTrail
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.config import GatewaySettings, check_settings, placement_policy, resilience_limits, routing_rules
from headrace_gateway.deadlines import Deadlines
from headrace_gateway.features import Features
from headrace_gateway.feeds import CATALOG, PRINCIPALS
from headrace_gateway.identity import Identity
from headrace_gateway.inference.dispatcher import Dispatcher
from headrace_gateway.inference.handler import InferenceHandler
from headrace_gateway.inference.outlook import shutting_down
from headrace_gateway.inference.packed_stream import StreamLimits
from headrace_gateway.inference.payload_gate import PayloadGate
from headrace_gateway.inference.resilience_metrics import ResilienceMetrics
from headrace_gateway.inference.routing import Router
from headrace_gateway.inference.routing_metrics import RoutingMetrics
from headrace_gateway.mesh.admission import Admissions
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.isolation import Isolation
from headrace_gateway.mesh.placement import PlacementMetrics, Wants
from headrace_gateway.mesh.runner_view import RunnerView
from headrace_gateway.mesh.servicer import RunnerMeshHandler
from headrace_gateway.mesh_service import MeshService
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.model_repository import ModelRepository
from headrace_gateway.neighbours import Neighbours
from headrace_gateway.oidc.key_source import KeySource
from headrace_gateway.oidc.settings import token_rules
from headrace_gateway.oidc.tokens import Tokens
from headrace_gateway.open_inference import OpenInference
from headrace_gateway.passthrough import passthrough
from headrace_gateway.policy import Access, policy
from headrace_gateway.principal_table import PrincipalTable
from headrace_gateway.public_handler import Endpoint, PublicHandler
from headrace_gateway.public_services import (
    PUBLIC_SERVICES,
    QUOTA_SERVICES,
    REGISTRY_SERVICES,
    inference_endpoints,
    mesh_endpoints,
    open_inference_endpoints,
    reflection_endpoints,
)
from headrace_gateway.public_tls import public_tls
from headrace_gateway.quota.quota_leases import QuotaLeases
from headrace_gateway.readiness import Readiness

ARTIFACT_AUDIENCE = "headrace-registry-artifact"
_TICKET_TTL_S = 300.0
_NOTICE_S = 0.5
_LAST_WORD_S = 1.0
STREAM_SLACK_BYTES = 1 << 20
"""What a stream's message may have around one request of the largest size."""
_REFLECTION_ACCESS = {"open": Access.PUBLIC, "keyed": Access.VIEWER, "off": None}


class Gateway:
    """One gateway process without its signals and its metrics endpoint. Build it inside a running event loop.

    Args:
        tasks: Owns the background tasks; one that dies should stop the process.

    Attributes:
        id: The configured name and a random suffix: names this process to runners and in MeshService.
        catalog: The model versions that this process knows.
        public_address: Where clients call, once started; `front_address` is where an HTTP front does, empty without
            such a listener, and `mesh_address` where runners dial.
    """

    def __init__(self, *, settings: GatewaySettings, metrics: Metrics, tasks: TaskGuard, clock: Clock) -> None:
        self.id = f"{settings.name}.{uuid.uuid4().hex[:12]}"
        self.public_address = ""
        self.front_address = ""
        self.mesh_address = ""
        self._settings = settings
        self._tasks = tasks
        self._clock = clock
        self._tls, self._public_tls = Tls.from_settings(settings), public_tls(settings)
        self._certificates = {"internal": self._tls, "public": self._public_tls}
        TlsMetrics(kept=self._certificates, registry=metrics.registry)
        self._signer = _signer(settings, self.id)
        self._runtime = RpcRuntime(
            registry=metrics.registry,
            calls_in_flight_max=settings.calls_in_flight_max,
            call_timeout_s=settings.call_timeout_s,
            message_bytes_max=settings.message_bytes_max,
        )
        self._metrics = GatewayMetrics(registry=metrics.registry)
        self._registry = metrics.registry
        logged = settings.log_level in ("debug", "info")
        self._access_log = AccessLog(service="gateway", fmt=settings.log_format) if logged else None
        self._load = LoopLoad()
        self._transfers = AdmissionGate(limit=settings.calls_in_flight_max)
        self._table = PrincipalTable()
        self.catalog = Catalog()
        self._metrics.keys.set_function(lambda: len(self._table))
        self._metrics.versions.set_function(lambda: len(self.catalog))
        self._readiness = Readiness(feeds=frozenset({PRINCIPALS, CATALOG}), changed=self._serving_changed)
        isolation = Isolation(dedicated=self._table.is_dedicated, tenant_of=self._tenant_of)
        self._directory = RunnerDirectory(clock=clock, isolation=isolation)
        self._table.add_isolation_listener(self._directory.isolation_changed)
        self._wants = Wants(
            catalog=self.catalog,
            directory=self._directory,
            sign_ticket=self._ticket,
            clock=clock,
            policy=placement_policy(settings),
        )
        PlacementMetrics(wants=self._wants, registry=metrics.registry)
        self.catalog.add_listener(self._metrics.forget)
        self._neighbours = Neighbours(settings=settings, signer=self._signer, tls=self._tls, clock=clock)
        self._features = Features(table=self._table)
        self._key_source, self._tokens = _tokens(settings, clock)
        self._identity = Identity(table=self._table, clock=clock, community=settings.community, tokens=self._tokens)
        self._payloads = PayloadGate(bytes_max=settings.request_bytes_max)
        self._results = ByteBudget(total_bytes=settings.result_bytes_max)
        self._leases = QuotaLeases(
            gateway_id=self.id,
            limits_of=self._table.limits,
            channel=self._neighbours.permit_channel,
            metadata=self._neighbours.quota_metadata,
            clock=clock,
            registry=metrics.registry,
        )
        self._accounting = self._accounts()
        self._inference = self._inference_handler()
        self._listening = asyncio.Event()
        self._public = self._public_server()
        self._mesh = self._mesh_server()

    async def start(self) -> None:
        """Listens, and begins to follow the feeds. Health says NOT_SERVING until both have delivered.

        A public port that is shared is listened on only then: others serve its connections until this one can.

        Raises:
            InitializationError: LISTEN_FAILED: an address is taken or not ours.
        """
        feeds = self._neighbours.feeds(table=self._table, catalog=self.catalog, snapshot=self._readiness.feed_ready)
        for name, feed in feeds.items():
            self._tasks.spawn(feed.run(), name=f"{name} feed")
            self._metrics.follow_feed(name, feed)
        self._tasks.spawn(self._directory.watch_heartbeats(), name="heartbeats")
        self._tasks.spawn(self._wants.run(), name="wants")
        self._tasks.spawn(self._inference.watch_deadlines(), name="deadlines")
        self._tasks.spawn(self._load.run(), name="loop load")
        for name, tls in self._certificates.items():
            if tls is not None:
                self._tasks.spawn(tls.run(), name=f"{name} certificates")
        if self._key_source is not None and self._tokens is not None:
            self._tasks.spawn(self._key_source.run(self._tokens.use), name="issuer's keys")
        freed = FreedMemory(seen=lambda: self._payloads.huge + self._results.huge)
        self._tasks.spawn(freed.run(), name="freed memory")
        self._leases.start(self._tasks)
        self._accounting.start(self._tasks)
        (self.mesh_address,) = await self._mesh.start()
        if self._settings.share_port:
            self._tasks.spawn(self._listen_when_ready(), name="public listener")
        else:
            await self._listen()

    @property
    def transfers_in_flight(self) -> int:
        """Uploads and downloads that are being passed on."""
        return self._transfers.taken

    async def serving(self) -> None:
        """Returns once both feeds have delivered their first snapshot and clients can call."""
        await self._readiness.reached()
        await self._listening.wait()

    async def close(self) -> None:
        """Ends in order: NOT_SERVING, a moment in which others notice, no new calls, no runners.

        Calls that come in that moment are served: whoever does not look at health learns from the transport, which
        tells every connection to leave when the listener stops and lets running calls finish within the grace.
        """
        end_at = self._clock.monotonic() + self._settings.shutdown_grace_s
        self._readiness.drain()
        self._public.drain()
        self._handler.end_streams()
        await self._public.leave_shared_ports()
        await asyncio.sleep(min(_NOTICE_S, self._settings.shutdown_grace_s))
        left_s = max(0.0, end_at - self._clock.monotonic())
        # Those that would be cut off are told why, as long as there is time to tell it.
        last_word = asyncio.get_running_loop().call_later(
            max(left_s / 2, left_s - _LAST_WORD_S), self._inference.give_up_all, shutting_down()
        )
        await self._public.stop(left_s)
        last_word.cancel()
        try:
            async with asyncio.timeout(max(_NOTICE_S, end_at - self._clock.monotonic())):
                await self._directory.close()
        except TimeoutError:
            pass
        await self._mesh.stop(0)
        await self._leases.close()
        await self._accounting.close(self._settings.spool_drain_s)
        await self._tasks.close()
        self._accounting.release()
        await self._neighbours.close()
        if self._access_log is not None:
            self._access_log.flush()

    async def _listen(self) -> None:
        self.public_address, *front = await self._public.start()
        self.front_address = front[0] if front else ""
        self._public.health.set_serving(self._readiness.serving)
        self._listening.set()

    async def _listen_when_ready(self) -> None:
        await self._readiness.reached()
        if not self._readiness.draining:
            await self._listen()

    def _public_server(self) -> GrpcServer:
        settings = self._settings
        reflection = _REFLECTION_ACCESS[settings.reflection]
        audit = AuditTrail(log=self._accounting.spool, gateway_id=self.id, clock=self._clock)
        endpoints = audit.over(self._own_endpoints() | self._passed_on())
        if reflection is not None:
            endpoints |= reflection_endpoints(self._runtime)
        self._handler = PublicHandler(
            endpoints=endpoints,
            access=policy(reflection=reflection),
            identity=self._identity,
            features=self._features,
            runtime=self._runtime,
            metrics=self._metrics,
            used=KeyUses(tell=self._accounting.tell_key_use, clock=self._clock).used,
        )
        return GrpcServer(
            listeners=[
                Listener(address=settings.grpc_address, tls=self._public_tls),
                *([Listener(address=settings.front_address)] if settings.front_address is not None else []),
            ],
            handlers=[self._handler],
            runtime=self._runtime,
            health_services=PUBLIC_SERVICES,
            # Up to twice the cap a message is received, so that the refusal is ours and names the limit.
            options=[
                ("grpc.max_receive_message_length", 2 * settings.message_bytes_max),
                ("grpc.so_reuseport", int(settings.share_port)),
            ],
        )

    def _mesh_server(self) -> GrpcServer:
        settings = self._settings
        limits = LaneLimits(message_bytes_max=settings.message_bytes_max)
        handler = RunnerMeshHandler(
            gateway_id=self.id,
            admissions=Admissions(
                shared_token=read_secret(settings.join_token_file) if settings.join_token_file else None,
                tokens_file=settings.join_tokens_file,
                certificates=settings.tls_ca_file is not None,
                trust_domain=settings.trust_domain,
                clock=self._clock,
            ),
            directory=self._directory,
            limits=limits,
            budget=self._results,
            clock=self._clock,
            load=self._load,
            registry=self._registry,
        )
        return GrpcServer(
            listeners=[Listener(address=settings.mesh_address, tls=self._tls)],
            handlers=[handler],
            runtime=self._runtime,
            options=[("grpc.max_receive_message_length", 2 * limits.frame_bytes_max), *LANE_OPTIONS],
        )

    def _router(self) -> Router:
        router = Router(
            directory=self._directory,
            clock=self._clock,
            random=Random(),  # noqa: S311 - spreads load, guards nothing
            rules=routing_rules(self._settings),
        )
        RoutingMetrics(router=router, registry=self._registry)
        return router

    def _accounts(self) -> Accounting:
        settings = self._settings
        accounting = Accounting(
            parent=settings.spool_dir or settings.state_dir / "spool",
            bytes_max=settings.spool_bytes_max,
            gateway_id=self.id,
            book=self._leases.book,
            aggregates=self._table.aggregates_streams,
            channel=self._neighbours.usage_channel,
            metadata=self._neighbours.quota_metadata,
            replaced=self._leases.replace,
            clock=self._clock,
            random=Random(),  # noqa: S311 - spreads reconnects, guards nothing
        )
        self.catalog.add_listener(accounting.calls.forget)
        RunnerHistory(directory=self._directory, gateway_id=self.id, tell=accounting.tell_runner, clock=self._clock)
        SpoolMetrics(accounting=accounting, now_s=asyncio.get_running_loop().time, registry=self._registry)
        return accounting

    def _inference_handler(self) -> InferenceHandler:
        dispatcher = self._dispatcher = Dispatcher(
            directory=self._directory,
            wants=self._wants,
            clock=self._clock,
            router=self._router(),
            random=Random(),  # noqa: S311 - spreads load, guards nothing
            limits=resilience_limits(self._settings),
        )
        self.catalog.add_listener(dispatcher.version_left)
        ResilienceMetrics(dispatcher=dispatcher, registry=self._registry)
        return InferenceHandler(
            catalog=self.catalog,
            features=self._features,
            dispatcher=dispatcher,
            accounts=self._accounting.calls,
            payloads=self._payloads,
            metrics=self._metrics,
            clock=self._clock,
            message_bytes_max=self._settings.message_bytes_max,
            call_timeout_s=self._settings.call_timeout_s,
            generate_timeout_s=self._settings.generate_timeout_s,
        )

    def _own_endpoints(self) -> dict[str, Endpoint]:
        settings = self._settings
        open_inference = OpenInference(
            catalog=self.catalog,
            directory=self._directory,
            metrics=self._metrics,
            readiness=self._readiness,
            clock=self._clock,
            server_version=installed_version("headrace-gateway"),
        )
        repository = ModelRepository(
            catalog=self.catalog, directory=self._directory, wants=self._wants, clock=self._clock
        )
        inference = inference_endpoints(
            self._inference,
            identity=self._identity,
            features=self._features,
            payloads=self._payloads,
            clock=self._clock,
            limits=StreamLimits(
                message_bytes_max=settings.message_bytes_max + STREAM_SLACK_BYTES,
                default_timeout_s=settings.call_timeout_s,
            ),
            stream_calls_max=settings.stream_calls_max,
            tenant_streams_max=settings.tenant_streams_max,
            log=self._access_log,
            load=self._load,
            runtime=self._runtime,
        )
        view = RunnerView(
            runners=self._directory,
            known=self.catalog.by_uid,
            breaker_state=self._dispatcher.breaker_state,
            clock=self._clock,
        )
        mesh = MeshService(gateway_id=self.id, directory=self._directory, view=view)
        return (
            inference
            | open_inference_endpoints(open_inference, repository, self._runtime)
            | mesh_endpoints(mesh, self._runtime)
        )

    def _passed_on(self) -> dict[str, Endpoint]:
        settings = self._settings
        deadlines = Deadlines(
            call_s=settings.call_timeout_s, transfer_s=settings.transfer_timeout_s, margin_s=settings.forward_margin_s
        )
        endpoints: dict[str, Endpoint] = {}
        for upstream, services in (
            (self._neighbours.quota, QUOTA_SERVICES),
            (self._neighbours.registry, REGISTRY_SERVICES),
        ):
            for service in services:
                endpoints |= passthrough(
                    service,
                    upstream=upstream,
                    deadlines=deadlines,
                    runtime=self._runtime,
                    transfers=self._transfers,
                )
        return endpoints

    def _tenant_of(self, version_uid: str) -> str | None:
        version = self.catalog.by_uid(version_uid)
        return version.tenant_id if version is not None else None

    def _ticket(self, version: CatalogVersion) -> str:
        return self._signer.sign_ticket(
            tenant_id=version.tenant_id,
            version_id=version.uid,
            digests=[file.sha256 for file in version.proto.files],
            audience=ARTIFACT_AUDIENCE,
            ttl_s=_TICKET_TTL_S,
        )

    def _serving_changed(self, serving: bool) -> None:
        self._public.health.set_serving(serving)


async def serve(settings: GatewaySettings, stop: Stop) -> None:
    """Runs a gateway until `stop` is requested or a background task dies."""
    check_settings(settings)
    metrics = Metrics()
    async with TaskGuard() as tasks:
        gateway = Gateway(settings=settings, metrics=metrics, tasks=tasks, clock=SystemClock())
        try:
            await gateway.start()
            tasks.spawn(_announce(settings, gateway, metrics.start(settings.metrics_address)), name="announce")
            await stop.wait_or_failure(tasks)
        finally:
            await gateway.close()
            await metrics.close()


async def _announce(settings: GatewaySettings, gateway: Gateway, metrics_url: str) -> None:
    """Writes the ready file once calls would be served."""
    await gateway.serving()
    write_ready_file(
        settings.ready_file,
        name=settings.name,
        grpc=gateway.public_address,
        front=gateway.front_address or None,
        mesh=gateway.mesh_address,
        metrics=metrics_url,
    )


def _tokens(settings: GatewaySettings, clock: Clock) -> tuple[KeySource | None, Tokens | None]:
    """What checks the tokens of an issuer, and what reads the issuer's keys; nothing where there is none."""
    rules = token_rules(settings)
    if rules is None or settings.oidc_jwks is None:
        return None, None
    source = KeySource(location=settings.oidc_jwks, refresh_s=settings.oidc_refresh_s, clock=clock)
    return source, Tokens(rules=rules, clock=clock, ask_again=source.ask)


def _signer(settings: GatewaySettings, gateway_id: str) -> PrincipalSigner:
    if settings.principal_key_file is None:
        raise ConfigError("HEADRACE_PRINCIPAL_KEY_FILE must be set", entry=SETTING_MISSING)
    return PrincipalSigner.from_file(settings.principal_key_file, issuer=gateway_id)
