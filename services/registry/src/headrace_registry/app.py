"""The composition root: what the service is made of, how it waits for its database, and how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from headrace_common.call import MetadataMap
from headrace_common.change_window import ChangeWindow
from headrace_common.clock import Clock, SystemClock
from headrace_common.database_service import migrate_when_reachable, required, serve_until_stopped
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime, service_handler
from headrace_common.metrics import Metrics
from headrace_common.object_store import ObjectStore
from headrace_common.postgres import Database
from headrace_common.principal import PRINCIPAL_KEY, Principal, PrincipalVerifier
from headrace_common.revision_feed import RevisionFeed, RevisionTail
from headrace_common.service_main import Stop
from headrace_common.tasks import TaskGuard
from headrace_common.tls import Tls, TlsMetrics
from headrace_registry.artifact_reader import ArtifactReader
from headrace_registry.artifact_servicer import ARTIFACT_SERVICE, ArtifactServicer
from headrace_registry.catalog_feed_servicer import CATALOG_FEED_SERVICE, Message, catalog_feed_servicer
from headrace_registry.catalog_feed_source import CatalogFeedSource
from headrace_registry.config import RegistrySettings
from headrace_registry.inspection import Inspector
from headrace_registry.library import ModelLibrary
from headrace_registry.model_servicer import MODEL_SERVICE, ModelServicer
from headrace_registry.postgres_history import CHANNEL, PostgresCatalogHistory
from headrace_registry.postgres_store import PostgresRegistryStore
from headrace_registry.segments import SegmentStore
from headrace_registry.upload import CHUNK_BYTES_MAX
from headrace_registry.upload_spool import UploadSpool
from headrace_registry.uploads import UploadLimits, Uploads

AUDIENCE = "headrace-registry"
ARTIFACT_AUDIENCE = "headrace-registry-artifact"
VERSIONS = Path(__file__).parent / "migrations" / "versions"

# A chunk that is too large shall be told so by name, so messages may be larger than chunks.
_MESSAGE_BYTES_MAX = 2 * CHUNK_BYTES_MAX


class RegistryService:
    """One registry process: `start()`, then `prepare()` until the database is there, then serve until `close()`."""

    def __init__(self, *, settings: RegistrySettings, clock: Clock, guard: TaskGuard) -> None:
        self._settings = settings
        self._clock = clock
        self._guard = guard
        self._url = required(settings.postgres_url, "HEADRACE_POSTGRES_URL").get_secret_value()
        self._database = Database(url=self._url, service="registry", connections_max=settings.postgres_pool_max)
        self.metrics = Metrics()
        self._tls = Tls.from_settings(settings)
        TlsMetrics(kept={"internal": self._tls}, registry=self.metrics.registry)
        self._spool = UploadSpool(directory=settings.upload_dir or settings.state_dir / "uploads")
        source = CatalogFeedSource(
            history=PostgresCatalogHistory(database=self._database), window=ChangeWindow[Message]()
        )
        self._tail = RevisionTail(
            database=self._database, channel=CHANNEL, head=source.head, clock=clock, poll_s=settings.feed_poll_s
        )
        self._feed = catalog_feed_servicer(
            feed=RevisionFeed(source=source, tail=self._tail, heartbeat_s=settings.feed_heartbeat_s),
            tail=self._tail,
            registry=self.metrics.registry,
        )
        self._server = self._composed_server()

    async def start(self) -> str:
        """Clears what killed processes left, listens, and says NOT_SERVING until the database is ready.

        Returns:
            The bound address.

        Raises:
            InitializationError: LISTEN_FAILED: the address is taken or not ours; INITIALIZATION_FAILED: the folder
                for uploads can't be used.
        """
        await asyncio.to_thread(self._spool.open)
        (address,) = await self._server.start()
        self._server.drain()
        if self._tls is not None:
            self._guard.spawn(self._tls.run(), name="certificates")
        return address

    async def prepare(self) -> None:
        """Waits for the database with backoff, brings the schema up to date, says SERVING.

        Raises:
            InitializationError: MIGRATION_FAILED.
        """
        await migrate_when_reachable(self._url, service="registry", versions_dir=VERSIONS)
        await self._database.open()
        self._guard.spawn(self._tail.run(), name="revision tail")
        self._server.health.set_serving(True)

    async def close(self) -> None:
        """Refuses new calls, ends the feeds, lets running calls finish within the grace, closes what is open."""
        self._server.drain()
        self._feed.end_streams()
        await self._server.stop(self._settings.shutdown_grace_s)
        await self._guard.close()
        await self._database.close()
        await asyncio.to_thread(self._spool.close)
        await self.metrics.close()

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
        tickets = PrincipalVerifier(jwks_path=jwks_path, audience=ARTIFACT_AUDIENCE, clock=self._clock)
        models, artifacts = self._servicers(tickets)

        def tenant_caller(method: str, metadata: MetadataMap) -> Principal:
            return verifier.verify(metadata.get(PRINCIPAL_KEY))

        def service_caller(method: str, metadata: MetadataMap) -> Principal:
            return verifier.verify_service(metadata.get(PRINCIPAL_KEY))

        return GrpcServer(
            listeners=[Listener(address=settings.grpc_address, tls=self._tls)],
            handlers=[
                service_handler(MODEL_SERVICE, models.methods(), runtime=runtime, authenticate=tenant_caller),
                service_handler(
                    CATALOG_FEED_SERVICE, self._feed.methods(), runtime=runtime, authenticate=service_caller
                ),
                service_handler(
                    ARTIFACT_SERVICE, artifacts.methods(), runtime=runtime, authenticate=artifacts.authenticate
                ),
            ],
            runtime=runtime,
        )

    def _servicers(self, tickets: PrincipalVerifier) -> tuple[ModelServicer, ArtifactServicer]:
        settings = self._settings
        storage_url = required(settings.storage_url, "HEADRACE_STORAGE_URL")
        store = PostgresRegistryStore(database=self._database)
        segments = SegmentStore(objects=ObjectStore.open(storage_url), timeout_s=settings.storage_timeout_s)
        reader = ArtifactReader(store=store, segments=segments, registry=self.metrics.registry)
        uploads = Uploads(
            store=store,
            segments=segments,
            spool=self._spool,
            inspector=Inspector(
                timeout_s=settings.inspection_timeout_s,
                memory_bytes=settings.inspection_memory_bytes,
                concurrent_max=settings.inspections_max,
                registry=self.metrics.registry,
            ),
            limits=UploadLimits(
                bytes_max=settings.upload_bytes_max,
                concurrent_max=settings.uploads_max,
                idle_s=settings.upload_idle_s,
            ),
            registry=self.metrics.registry,
        )
        models = ModelServicer(
            library=ModelLibrary(store=store),
            uploads=uploads,
            reader=reader,
            upload_timeout_s=settings.upload_timeout_s,
        )
        return models, ArtifactServicer(store=store, reader=reader, verifier=tickets)


async def run(settings: RegistrySettings, stop: Stop) -> None:
    """Runs the service until `stop` is requested or a background task dies.

    Raises:
        ConfigError: a setting is missing or wrong.
        InitializationError: LISTEN_FAILED, MIGRATION_FAILED or INITIALIZATION_FAILED.
    """
    async with TaskGuard() as guard:
        service = RegistryService(settings=settings, clock=SystemClock(), guard=guard)
        await serve_until_stopped(service, settings=settings, stop=stop, guard=guard)
