"""`headrace.gateway.v1.MeshService`: what operators and tenants see of the runners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from headrace.gateway.v1 import mesh_pb2
from headrace_common.catalogue import FIELD_REQUIRED, RUNNER_NOT_FOUND
from headrace_common.errors import RunnerError, ValidationError
from headrace_common.grpc_server import Call
from headrace_common.principal import Principal
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_view import RunnerView, lasting
from headrace_gateway.policy import is_operator


class MeshService:
    """Shows the runners to callers. A tenant sees its own models, and nothing that tells of others' activity."""

    def __init__(self, *, gateway_id: str, directory: RunnerDirectory, view: RunnerView) -> None:
        self._gateway_id = gateway_id
        self._directory = directory
        self._view = view

    async def ListRunners(  # noqa: N802 - the contract's name
        self, request: mesh_pb2.ListRunnersRequest, call: Call
    ) -> mesh_pb2.ListRunnersResponse:
        del request
        return mesh_pb2.ListRunnersResponse(gateway_id=self._gateway_id, runners=self._visible(call.principal))

    async def WatchRunners(  # noqa: N802
        self, request: mesh_pb2.WatchRunnersRequest, call: Call
    ) -> AsyncIterator[mesh_pb2.WatchRunnersResponse]:
        """Every runner once, then whichever changed, without end. Changes faster than the caller reads are merged."""
        del request
        pending = asyncio.Event()
        changed: set[str] = set()

        def mark(runner_id: str) -> None:
            changed.add(runner_id)
            pending.set()

        self._directory.add_listener(mark)
        try:
            told = {runner.id: runner for runner in self._visible(call.principal)}
            for runner in list(told.values()):
                yield self._told(runner)
            while True:
                await pending.wait()
                pending.clear()
                ids = set(changed)
                changed.clear()
                for runner in self._news(ids, told, call.principal):
                    yield self._told(runner)
        finally:
            self._directory.remove_listener(mark)

    async def DrainRunner(  # noqa: N802
        self, request: mesh_pb2.DrainRunnerRequest, call: Call
    ) -> mesh_pb2.DrainRunnerResponse:
        if not request.id:
            raise ValidationError("id is required", entry=FIELD_REQUIRED, field="id", context={"field": "id"})
        self._directory.drain(request.id)
        for runner in self._visible(call.principal):
            if runner.id == request.id:
                return mesh_pb2.DrainRunnerResponse(runner=runner)
        raise RunnerError(
            "no runner of this id is connected", entry=RUNNER_NOT_FOUND, context={"runner": request.id[:128]}
        )

    def _news(self, ids: set[str], told: dict[str, mesh_pb2.Runner], principal: Principal) -> list[mesh_pb2.Runner]:
        """What the caller hasn't been told of these runners; keeps `told` current."""
        now = {runner.id: runner for runner in self._visible(principal) if runner.id in ids}
        news: list[mesh_pb2.Runner] = []
        for runner_id in sorted(ids):
            runner = now.get(runner_id)
            if runner is not None:
                before = told.get(runner_id)
                told[runner_id] = runner
                if before is None or lasting(before) != lasting(runner):
                    news.append(runner)
            elif (gone := told.pop(runner_id, None)) is not None:
                news.append(mesh_pb2.Runner(id=gone.id, name=gone.name, state=mesh_pb2.RUNNER_STATE_GONE))
        return news

    def _visible(self, principal: Principal) -> list[mesh_pb2.Runner]:
        if is_operator(principal):
            return self._view.all()
        return self._view.for_tenant(principal.tenant_id, policies=principal.policies)

    def _told(self, runner: mesh_pb2.Runner) -> mesh_pb2.WatchRunnersResponse:
        return mesh_pb2.WatchRunnersResponse(gateway_id=self._gateway_id, runner=runner)
