"""Runners join a gateway's mesh listener by certificate or token, as what those say, and no longer than they hold."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from headrace_common.clock import SystemClock
from headrace_common.errors import HeadraceError
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime
from headrace_common.join_tokens import JoinToken, new_join_token, render_join_tokens
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.rpc_status import from_rpc_error
from headrace_common.tls import Tls
from headrace_gateway.mesh.admission import Admissions
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.servicer import RunnerMeshHandler
from support.certificates import Authority
from support.eventually import eventually
from support.scripted_runner import scripted_runner

CLOCK = SystemClock()


@dataclass
class Mesh:
    """A gateway's mesh listener, and the file of tokens that it looks at."""

    address: str
    directory: RunnerDirectory
    registry: CollectorRegistry
    file: Path
    entries: list[JoinToken]

    def token(self, *, tenant: str = "", ends_in: timedelta | None = None) -> str:
        now = datetime.now(UTC)
        token, entry = new_join_token(tenant=tenant, now=now, expires_at=now + ends_in if ends_in else None)
        self.keep([*self.entries, entry])
        return token

    def keep(self, entries: list[JoinToken]) -> None:
        self.entries = entries
        fresh = self.file.with_suffix(".new")
        fresh.write_text(render_join_tokens(entries))
        fresh.replace(self.file)

    async def refusal(self, **shown: Any) -> HeadraceError:
        """What a runner is told that shows this."""
        shown.setdefault("name", "stranger")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with scripted_runner(self.address, **shown):
                raise AssertionError("the runner was let in")
        return from_rpc_error(caught.value)

    async def joins(self, **shown: Any) -> str:
        """Who the gateway says that the runner is that shows this."""
        shown.setdefault("name", "welcome")
        async with scripted_runner(self.address, **shown):
            await eventually(lambda: len(self.directory) == 1)
            (session,) = self.directory
        await eventually(lambda: len(self.directory) == 0)
        return session.subject


@asynccontextmanager
async def mesh(folder: Path, tls: Tls | None = None) -> AsyncGenerator[Mesh]:
    registry, file = CollectorRegistry(), folder / "join.tokens"
    file.write_text(render_join_tokens([]))
    directory = RunnerDirectory(clock=CLOCK)
    handler = RunnerMeshHandler(
        gateway_id="gateway-0",
        admissions=Admissions(
            shared_token=None, tokens_file=file, certificates=tls is not None, trust_domain="headrace", clock=CLOCK
        ),
        directory=directory,
        limits=LaneLimits(),
        budget=ByteBudget(total_bytes=256 << 20),
        load=LoopLoad(),
        clock=CLOCK,
        registry=registry,
    )
    server = GrpcServer(
        listeners=[Listener(address="127.0.0.1:0", tls=tls)], handlers=[handler], runtime=RpcRuntime(registry=registry)
    )
    (address,) = await server.start()
    try:
        yield Mesh(address, directory, registry, file, [])
    finally:
        await server.stop(0)


async def test_certificates_decide_who_joins_and_for_which_tenant(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")

    def by(name: str, uri: str | None, authority: Authority = ours) -> Tls:
        return Tls(files=replace(authority.issue(name, uri=uri), authorities=ours.file))

    shared = by("shared", "spiffe://headrace/runner")
    acme = by("acme", "spiffe://headrace/tenant/acme/runner")
    async with mesh(tmp_path, by("gateway", "spiffe://headrace/gateway")) as gateway:
        assert await gateway.joins(tls=shared) == "spiffe://headrace/runner"
        assert await gateway.joins(tls=acme, labels={"tenant": "acme"}) == "spiffe://headrace/tenant/acme/runner"
        for tls, labels in ((shared, {"tenant": "acme"}), (acme, {"tenant": "globex"}), (acme, {})):
            assert (await gateway.refusal(tls=tls, labels=labels)).reason == "JOIN_FORBIDDEN"
        service = by("quota", "spiffe://headrace/quota")
        assert (await gateway.refusal(tls=service)).reason == "JOIN_TOKEN_INVALID"
        assert (await gateway.joins(tls=service, join_token=gateway.token())).startswith("token:")
        for stranger in (None, by("spy", "spiffe://headrace/runner", foreign), Tls(files=_without_certificate(ours))):
            await gateway.refusal(tls=stranger, join_token=gateway.token())
        refused = {"JOIN_FORBIDDEN": 3.0, "JOIN_TOKEN_INVALID": 1.0}
        counted = {
            reason: gateway.registry.get_sample_value("headrace_mesh_joins_refused_total", {"reason": reason})
            for reason in refused
        }
        assert counted == refused


async def test_tokens_decide_where_there_are_no_certificates(tmp_path: Path) -> None:
    async with mesh(tmp_path) as gateway:
        shared, acme = gateway.token(), gateway.token(tenant="acme")
        ended = gateway.token(ends_in=timedelta(seconds=-1))
        assert (await gateway.joins(join_token=shared)).startswith("token:")
        await gateway.joins(join_token=acme, labels={"tenant": "acme"})
        assert (await gateway.refusal(join_token=shared, labels={"tenant": "acme"})).reason == "JOIN_FORBIDDEN"
        assert (await gateway.refusal(join_token=acme)).reason == "JOIN_FORBIDDEN"
        told = {str(await gateway.refusal(join_token=bad)) for bad in (None, ended, shared[:-1], "x" * 600)}
        assert len(told) == 1


async def test_a_token_that_is_taken_out_ends_its_sessions_and_no_others(tmp_path: Path) -> None:
    async with mesh(tmp_path) as gateway:
        revoked, kept = gateway.token(), gateway.token()
        async with (
            scripted_runner(gateway.address, name="revoked", join_token=revoked) as leaving,
            scripted_runner(gateway.address, name="kept", join_token=kept) as staying,
        ):
            await eventually(lambda: len(gateway.directory) == 2)
            gateway.keep([entry for entry in gateway.entries if entry.id not in revoked])
            await eventually(leaving.over.is_set)
            await eventually(lambda: [session.hello.runner_name for session in gateway.directory] == ["kept"])
            assert not staying.over.is_set()
        assert (await gateway.refusal(join_token=revoked)).reason == "JOIN_TOKEN_INVALID"


async def test_nobody_takes_the_place_of_a_runner_that_joined_as_another(tmp_path: Path) -> None:
    async with mesh(tmp_path) as gateway:
        first, second = gateway.token(), gateway.token()
        same: dict[str, Any] = {"name": "runner-0", "boot_uuid": "6f0c"}
        async with scripted_runner(gateway.address, join_token=first, **same):
            await eventually(lambda: len(gateway.directory) == 1)
            assert (await gateway.refusal(join_token=second, **same)).reason == "JOIN_FORBIDDEN"
            assert len(gateway.directory) == 1


def _without_certificate(authority: Authority) -> Any:
    return replace(authority.issue("nobody"), certificate=None, key=None)
