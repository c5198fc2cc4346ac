"""What routing is set to: the way of choosing for a version or tenant, and what devices are preferred or cheap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from headrace.registry.v1 import manifest_pb2
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.runner_session import RunnerSession

DEVICE_PREFERENCE = ("cuda", "tpu", "npu", "cpu")
SPOT_LABEL = "spot"
PRICE_LABEL = "cost_per_hour"


class Policy(StrEnum):
    """A way to choose among the replicas of a version."""

    LEAST_COST = "least_cost"
    LATENCY = "latency"
    ROUND_ROBIN = "round_robin"
    CHEAPEST = "cheapest"


_OF_MANIFEST = {
    manifest_pb2.REPLICA_CHOICE_LEAST_COST: Policy.LEAST_COST,
    manifest_pb2.REPLICA_CHOICE_LATENCY: Policy.LATENCY,
    manifest_pb2.REPLICA_CHOICE_ROUND_ROBIN: Policy.ROUND_ROBIN,
    manifest_pb2.REPLICA_CHOICE_CHEAPEST: Policy.CHEAPEST,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRules:
    """The gateway's settings.

    Attributes:
        policy: Where neither the version's manifest nor its tenant says otherwise.
        tenant_policies: By tenant.
        device_preference: Device types, most preferred first, for versions whose manifest names none.
        device_wait_ratio: A less preferred device gets a call when the work that waits on the preferred one takes this
            many times as long as the call would there, its own waiting included; 0 means never.
        affinity_slack: How many more calls for each slot than the least busy replica the one may have that a call
            belongs to by the beginning of its prompt.
        slow_start_s: Time in which a replica that was loaded or came back gets more and more calls.
    """

    policy: Policy = Policy.LEAST_COST
    tenant_policies: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    device_preference: tuple[str, ...] = DEVICE_PREFERENCE
    device_wait_ratio: float = 4.0
    affinity_slack: float = 0.5
    slow_start_s: float = 10.0

    def policy_of(self, version: CatalogVersion) -> Policy:
        """The manifest's, else the tenant's, else the gateway's. A choice that a newer registry knows is no choice."""
        choice = version.proto.manifest.routing.choice
        return _OF_MANIFEST.get(choice) or self.tenant_policies.get(version.tenant_id, self.policy)

    def device_rank(self, version: CatalogVersion, session: RunnerSession) -> int:
        """0 for the version's most preferred device type; those that nobody named come last."""
        order = tuple(version.proto.manifest.device_types) or self.device_preference
        device_type = session.hello.device.type
        return order.index(device_type) if device_type in order else len(order)

    def price(self, session: RunnerSession, *, priced: bool) -> tuple[float, bool, float]:
        """Rises with what a runner costs.

        Args:
            session: The runner.
            priced: Whether all runners that it is compared with state a price, which then decides. Else the device type
                does, where what is preferred less is taken to be cheaper, then whether it is a spot runner.
        """
        stated = stated_price(session)
        spot = session.hello.labels.get(SPOT_LABEL, "").lower() == "true"
        if priced and stated is not None:
            return stated, not spot, 0.0
        device_type = session.hello.device.type
        order = self.device_preference
        dearness = len(order) - order.index(device_type) if device_type in order else 0
        return float(dearness), not spot, math.inf if stated is None else stated


def stated_price(session: RunnerSession) -> float | None:
    """The runner's label `cost_per_hour`; None when it is absent or no number of 0 or more."""
    try:
        price = float(session.hello.labels.get(PRICE_LABEL, ""))
    except ValueError:
        return None
    return price if 0.0 <= price < math.inf else None
