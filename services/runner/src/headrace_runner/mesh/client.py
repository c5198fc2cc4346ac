"""Keeps one session with every gateway process that can be found."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping, Sequence

import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.clock import Clock
from headrace_common.errors import ConfigError
from headrace_common.lanes import ByteBudget, LaneLimits, LaneViolation
from headrace_common.loop_load import LoopLoad
from headrace_runner.mesh.discovery import resolve
from headrace_runner.mesh.host import Host
from headrace_runner.mesh.session import PROTOCOL_VERSION, Session, SessionEnded

_BACKOFF_FIRST_S = 0.1
# With the jitter on top a gateway that is back has its runners within 2 s.
_BACKOFF_MAX_S = 1.0
_DISCOVERY_S = 2.0
_DUPLICATE_PAUSE_S = 10.0

ChannelFactory = Callable[[str, str], grpc.aio.Channel]


class MeshClient:
    """Dials gateways, redials lost ones within 2 s, and takes the runner out of the mesh again.

    A gateway that is reachable by two addresses is recognised by the id in its welcome and gets one session.

    Args:
        targets: Gateways' mesh listeners, as `discovery.resolve` takes them.
        open_channel: Opens a connection of its own to an address at each call, given the name that it was found by.
        join_token: Gives what to join with, read anew for each session off the loop.
        name: Configured name of this runner.
        labels: For placement.
        load: How busy this process is.
    """

    def __init__(
        self,
        *,
        targets: Sequence[str],
        open_channel: ChannelFactory,
        join_token: Callable[[], str | None],
        name: str,
        labels: Mapping[str, str],
        host: Host,
        limits: LaneLimits,
        budget: ByteBudget,
        clock: Clock,
        load: LoopLoad,
    ) -> None:
        self._targets = targets
        self._open_channel = open_channel
        self._join_token = join_token
        self._name = name
        self._labels = dict(labels)
        self._boot_uuid = str(uuid.uuid4())
        self._host = host
        self._limits = limits
        self._budget = budget
        self._clock = clock
        self._load = load
        self._addresses: dict[str, str] = {}
        self._dialled: set[str] = set()
        self._sessions: dict[str, Session] = {}
        self._draining = False
        self.registered = asyncio.Event()
        self.drain_requested = asyncio.Event()
        self._left = asyncio.Event()
        self._log = structlog.stdlib.get_logger("mesh")

    @property
    def gateways(self) -> frozenset[str]:
        """Ids of the gateways that this runner has sessions with."""
        return frozenset(self._sessions)

    async def run(self) -> None:
        """Finds and dials gateways until cancelled."""
        async with asyncio.TaskGroup() as dialers:
            while True:
                await self._discover(dialers)
                await asyncio.sleep(_DISCOVERY_S)

    async def drain(self, timeout_s: float) -> bool:
        """Tells every gateway that this runner leaves and waits until all have let it go.

        Returns:
            Whether that happened in time; calls that are still open then are lost when the process ends.
        """
        self._draining = True
        self._left.clear()
        for session in self._sessions.values():
            session.drain()
        if not self._sessions:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._left.wait()
        except TimeoutError:
            return False
        return True

    async def _discover(self, dialers: asyncio.TaskGroup) -> None:
        try:
            self._addresses = await resolve(self._targets)
        except OSError as error:
            self._log.warning("gateways can't be resolved", targets=list(self._targets), error=str(error))
            return
        for address in self._addresses.keys() - self._dialled:
            self._dialled.add(address)
            dialers.create_task(self._dial(address), name=f"dial-{address}")

    async def _dial(self, address: str) -> None:
        """Keeps a session with an address for as long as it is listed; one that is unlisted ends by itself."""
        backoff_s = _BACKOFF_FIRST_S
        try:
            while address in self._addresses and not self._draining:
                started = self._clock.monotonic()
                pause_s = await self._session(address)
                if pause_s is None:
                    if self._clock.monotonic() - started > _BACKOFF_MAX_S:
                        backoff_s = _BACKOFF_FIRST_S
                    pause_s = backoff_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads reconnects
                    backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
                await asyncio.sleep(pause_s)
        finally:
            self._dialled.discard(address)

    async def _session(self, address: str) -> float | None:
        """Runs one session; returns a fixed pause before the next one, or None for the usual backoff."""
        gateway_id, name = "", self._addresses.get(address, "")

        def on_welcome(welcome: mesh_pb2.Welcome) -> bool:
            nonlocal gateway_id
            if self._draining or welcome.gateway_id in self._sessions:
                return False
            gateway_id = welcome.gateway_id
            self._sessions[gateway_id] = session
            self.registered.set()
            self._log.info("joined a gateway", gateway_id=gateway_id, address=address)
            return True

        try:
            join_token = await asyncio.to_thread(self._join_token)
        except ConfigError as error:
            self._log.warning("no join token", address=address, reason=error.message)
            return None
        session = Session(
            open_channel=lambda: self._open_channel(address, name),
            join_token=join_token,
            hello=self._hello,
            on_welcome=on_welcome,
            on_drain=self.drain_requested.set,
            host=self._host,
            limits=self._limits,
            budget=self._budget,
            clock=self._clock,
            load=self._load,
        )
        try:
            await session.run()
        except (SessionEnded, LaneViolation, grpc.aio.AioRpcError, asyncio.InvalidStateError, DecodeError) as error:
            self._log.warning("session ended", gateway_id=gateway_id, address=address, reason=_reason(error))
            return None
        except TimeoutError:
            self._log.warning("the gateway did not answer", address=address)
            return None
        finally:
            if gateway_id:
                del self._sessions[gateway_id]
                if not self._sessions:
                    self._left.set()
        return _DUPLICATE_PAUSE_S

    def _hello(self) -> mesh_pb2.Hello:
        return mesh_pb2.Hello(
            protocol_version=PROTOCOL_VERSION,
            runner_name=self._name,
            boot_uuid=self._boot_uuid,
            device=self._host.device,
            backends=self._host.backends,
            backend_info=self._host.backend_info(),
            labels=self._labels,
            models=self._host.model_events(),
            execution_slots=self._host.execution_slots,
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)
