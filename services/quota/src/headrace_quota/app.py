"""The composition root: what the service is made of, how it waits for its database, and how it ends."""

from __future__ import annotations

from pathlib import Path
from random import SystemRandom

from headrace_common.call import MetadataMap
from headrace_common.change_window import ChangeWindow
from headrace_common.clock import Clock, SystemClock
from headrace_common.database_service import migrate_when_reachable, required, serve_until_stopped
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime, service_handler
from headrace_common.metrics import Metrics
from headrace_common.postgres import Database
from headrace_common.principal import PRINCIPAL_KEY, Principal, PrincipalVerifier
from headrace_common.revision_feed import RevisionFeed, RevisionTail
from headrace_common.service_main import Stop
from headrace_common.tasks import TaskGuard
from headrace_common.tls import Tls, TlsMetrics
from headrace_quota.administration import TenantAdministration
from headrace_quota.bootstrap import prepare_tenants, read_admin_key
from headrace_quota.config import QuotaSettings
from headrace_quota.ended_windows import forget_ended_windows
from headrace_quota.leases.calendar_leases import CalendarLeases
from headrace_quota.leases.gateway_membership import GatewayMemberships
from headrace_quota.leases.lease_desk import LeaseDesk
from headrace_quota.leases.lease_metrics import LeaseMetrics
from headrace_quota.leases.lease_servicer import LEASE_SERVICE, LeaseServicer
from headrace_quota.leases.limit_table import LimitTable, limit_follower
from headrace_quota.leases.live_permits import ValkeyLiveUsage
from headrace_quota.leases.valkey_leases import ValkeyLeases
from headrace_quota.ledger.audit_servicer import AUDIT_SERVICE, AuditServicer
from headrace_quota.ledger.ingest_servicer import INGEST_SERVICE, IngestServicer
from headrace_quota.ledger.ledger_reader import LedgerReader
from headrace_quota.ledger.ledger_writer import LedgerWriter
from headrace_quota.ledger.upkeep import LedgerUpkeep
from headrace_quota.ledger.usage_servicer import USAGE_SERVICE, UsageServicer
from headrace_quota.postgres_history import CHANNEL, PostgresPrincipalHistory
from headrace_quota.postgres_quota_store import PostgresQuotaStore
from headrace_quota.postgres_store import PostgresTenantStore
from headrace_quota.principal_feed_servicer import PRINCIPAL_FEED_SERVICE, principal_feed_servicer
from headrace_quota.principal_feed_source import Message, PrincipalFeedSource
from headrace_quota.quota_administration import QuotaAdministration
from headrace_quota.quota_servicer import QUOTA_SERVICE, QuotaServicer
from headrace_quota.tenant_servicer import TENANT_SERVICE, TenantServicer

AUDIENCE = "headrace-quota"
VERSIONS = Path(__file__).parent / "migrations" / "versions"

# The largest request that the contract allows, a tenant with all its metadata, has about 130 kB.
_MESSAGE_BYTES_MAX = 1 << 20


class QuotaService:
    """One quota process: `start()`, then `prepare()` until the database is there, then serve until `close()`."""

    def __init__(self, *, settings: QuotaSettings, clock: Clock, guard: TaskGuard) -> None:
        self._settings = settings
        self._clock = clock
        self._guard = guard
        self._url = required(settings.postgres_url, "HEADRACE_POSTGRES_URL").get_secret_value()
        self._admin_key = read_admin_key(settings.bootstrap_admin_key_file)
        self._database = Database(url=self._url, service="quota", connections_max=settings.postgres_pool_max)
        self._store = PostgresTenantStore(database=self._database)
        self._quotas = PostgresQuotaStore(database=self._database)
        self._live = ValkeyLiveUsage(
            url=settings.redis_url.get_secret_value() if settings.redis_url is not None else None
        )
        self.metrics = Metrics()
        self._tls = Tls.from_settings(settings)
        TlsMetrics(kept={"internal": self._tls}, registry=self.metrics.registry)
        self._source = PrincipalFeedSource(
            history=PostgresPrincipalHistory(database=self._database, dead_keys_shown_s=settings.dead_keys_shown_s),
            window=ChangeWindow[Message](),
        )
        self._tail = RevisionTail(
            database=self._database,
            channel=CHANNEL,
            head=self._source.head,
            clock=clock,
            poll_s=settings.feed_poll_s,
        )
        feed = RevisionFeed(source=self._source, tail=self._tail, heartbeat_s=settings.feed_heartbeat_s)
        self._feed = principal_feed_servicer(
            feed=feed,
            tail=self._tail,
            registry=self.metrics.registry,
        )
        self._limits = LimitTable()
        self._limit_follower = limit_follower(feed=feed, table=self._limits, clock=clock)
        self._valkey = ValkeyLeases(
            url=settings.redis_url.get_secret_value() if settings.redis_url is not None else None,
            expire_s=settings.lease_expire_s,
            clock=clock,
        )
        calendar = CalendarLeases(database=self._database, expire_s=1.5 * settings.lease_expire_s)
        self._memberships = GatewayMemberships(
            store=calendar, expire_s=settings.lease_expire_s, clock=clock, guard=guard
        )
        self._leases = self._lease_servicer(calendar)
        self._server = self._composed_server()

    async def _keep_changes(self) -> None:
        await self._source.keep(await self._tail.refresh())

    async def start(self) -> str:
        """Listens, and says NOT_SERVING: calls are answered UNAVAILABLE until the database is ready.

        Returns:
            The bound address.

        Raises:
            InitializationError: LISTEN_FAILED: the address is taken or not ours.
        """
        (address,) = await self._server.start()
        self._server.drain()
        if self._tls is not None:
            self._guard.spawn(self._tls.run(), name="certificates")
        return address

    async def prepare(self) -> None:
        """Waits for the database with backoff, brings the schema and the first tenants up to date, says SERVING.

        Raises:
            InitializationError: MIGRATION_FAILED.
            ConfigError: the admin key belongs to another tenant.
        """
        await migrate_when_reachable(self._url, service="quota", versions_dir=VERSIONS)
        await self._database.open()
        await prepare_tenants(
            self._store,
            embedded=self._settings.embedded_tenants,
            admin_key=self._admin_key,
            now=self._clock.now(),
        )
        self._guard.spawn(self._tail.run(), name="revision tail")
        self._guard.spawn(forget_ended_windows(self._quotas), name="ended windows")
        upkeep = LedgerUpkeep(database=self._database, retention_days=self._settings.ledger_retention_days)
        # The first row must find its day: a partition can't be made for a day that has rows elsewhere.
        await upkeep.once()
        self._guard.spawn(upkeep.run(), name="ledger upkeep")
        self._guard.spawn(self._limit_follower.run(), name="limits")
        self._guard.spawn(self._memberships.expire(), name="lost gateways")
        await self._limit_follower.ready.wait()
        self._server.health.set_serving(True)

    async def close(self) -> None:
        """Refuses new calls, ends the feeds, lets running calls finish within the grace, closes the database."""
        self._server.drain()
        self._feed.end_streams()
        await self._server.stop(self._settings.shutdown_grace_s)
        await self._guard.close()
        await self._valkey.close()
        await self._live.close()
        await self._database.close()
        await self.metrics.close()

    def _lease_servicer(self, calendar: CalendarLeases) -> LeaseServicer:
        metrics = LeaseMetrics(registry=self.metrics.registry, store_lost=lambda: self._valkey.lost)
        desk = LeaseDesk(
            limits=self._limits,
            valkey=self._valkey,
            calendar=calendar,
            memberships=self._memberships,
            metrics=metrics,
            clock=self._clock,
        )
        return LeaseServicer(desk=desk, metrics=metrics)

    def _composed_server(self) -> GrpcServer:
        settings = self._settings
        jwks_path = required(settings.principal_jwks_file, "HEADRACE_PRINCIPAL_JWKS_FILE")
        runtime = RpcRuntime(
            registry=self.metrics.registry,
            calls_in_flight_max=settings.calls_in_flight_max,
            call_timeout_s=settings.call_timeout_s,
            message_bytes_max=min(settings.message_bytes_max, _MESSAGE_BYTES_MAX),
        )
        verifier = PrincipalVerifier(jwks_path=jwks_path, audience=AUDIENCE, clock=self._clock)

        def tenant_caller(method: str, metadata: MetadataMap) -> Principal:
            return verifier.verify(metadata.get(PRINCIPAL_KEY))

        def service_caller(method: str, metadata: MetadataMap) -> Principal:
            return verifier.verify_service(metadata.get(PRINCIPAL_KEY))

        administration = TenantAdministration(
            store=self._store,
            clock=self._clock,
            random=SystemRandom(),
            active_keys_max=settings.active_keys_max,
        )
        tenants = TenantServicer(administration=administration, keep_changes=self._keep_changes)
        quotas = QuotaServicer(
            administration=QuotaAdministration(store=self._quotas, live=self._live, clock=self._clock)
        )
        ledger = LedgerReader(database=self._database)
        usage = UsageServicer(ledger=ledger, clock=self._clock)
        audit = AuditServicer(ledger=ledger)
        ingest = IngestServicer(writer=LedgerWriter(database=self._database), registry=self.metrics.registry)
        return GrpcServer(
            listeners=[Listener(address=settings.grpc_address, tls=self._tls)],
            handlers=[
                service_handler(TENANT_SERVICE, tenants.methods(), runtime=runtime, authenticate=tenant_caller),
                service_handler(QUOTA_SERVICE, quotas.methods(), runtime=runtime, authenticate=tenant_caller),
                service_handler(USAGE_SERVICE, usage.methods(), runtime=runtime, authenticate=tenant_caller),
                service_handler(AUDIT_SERVICE, audit.methods(), runtime=runtime, authenticate=tenant_caller),
                service_handler(INGEST_SERVICE, ingest.methods(), runtime=runtime, authenticate=service_caller),
                service_handler(LEASE_SERVICE, self._leases.methods(), runtime=runtime, authenticate=service_caller),
                service_handler(
                    PRINCIPAL_FEED_SERVICE, self._feed.methods(), runtime=runtime, authenticate=service_caller
                ),
            ],
            runtime=runtime,
        )


async def run(settings: QuotaSettings, stop: Stop) -> None:
    """Runs the service until `stop` is requested or a background task dies.

    Raises:
        ConfigError: a setting is missing or wrong.
        InitializationError: LISTEN_FAILED or MIGRATION_FAILED.
    """
    async with TaskGuard() as guard:
        service = QuotaService(settings=settings, clock=SystemClock(), guard=guard)
        await serve_until_stopped(service, settings=settings, stop=stop, guard=guard)
