"""Plans, limits, and what is used of them, blocking."""

from __future__ import annotations

from headrace_client.async_quotas import AsyncQuotas, LimitList, Limits, PlanList, UsageList
from headrace_client.contracts.headrace.quota.v1 import quotas_pb2
from headrace_client.loop_thread import LoopThread


class Quotas:
    """Plans and limits; see `AsyncQuotas` for what arguments and answers mean."""

    def __init__(self, quotas: AsyncQuotas, loop: LoopThread) -> None:
        self._quotas = quotas
        self._loop = loop

    def set_plan(
        self, name: str, limits: Limits, *, display_name: str = "", aggregate_streams: bool = False
    ) -> quotas_pb2.Plan:
        """Make a plan, or replace all of it; its tenants have the new limits at every gateway within 5 s."""
        return self._loop.run(
            self._quotas.set_plan(name, limits, display_name=display_name, aggregate_streams=aggregate_streams)
        )

    def plan(self, name: str) -> quotas_pb2.Plan:
        """One plan; who isn't an operator sees that of the own tenant."""
        return self._loop.run(self._quotas.plan(name))

    def plans(self) -> PlanList:
        """All plans, ordered by name."""
        return self._loop.run(self._quotas.plans())

    def delete_plan(self, name: str) -> None:
        """Take a plan away that no tenant is on."""
        self._loop.run(self._quotas.delete_plan(name))

    def set_limits(self, tenant: str, limits: Limits) -> LimitList:
        """Replace all of a tenant's own limits, at every gateway within 5 s; none leaves those of its plan."""
        return self._loop.run(self._quotas.set_limits(tenant, limits))

    def limits(self, tenant: str = "") -> quotas_pb2.GetLimitsResponse:
        """The limits that hold for a tenant, and which of them are its own; empty means the caller's tenant."""
        return self._loop.run(self._quotas.limits(tenant))

    def usage(self, tenant: str = "") -> UsageList:
        """How each limit of a tenant stands now; empty means the caller's tenant."""
        return self._loop.run(self._quotas.usage(tenant))

    def reset(self, tenant: str, *, model: str = "", resource: str = "", window: str = "") -> int:
        """Set what is used of calendar quotas to nothing, and say how many counters; the ledger keeps its rows."""
        return self._loop.run(self._quotas.reset(tenant, model=model, resource=resource, window=window))

    def statistics(self, tenants_max: int = 20) -> quotas_pb2.GetQuotaStatisticsResponse:
        """The tenants that are nearest to a limit."""
        return self._loop.run(self._quotas.statistics(tenants_max))
