"""Which of the runners that have a model gets the next call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from headrace_common.clock import Clock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.call import InferenceCall
from headrace_gateway.inference.generation.prompt_affinity import Place, pick, weight
from headrace_gateway.inference.replica_choice import (
    Choice,
    Replica,
    RoundRobin,
    TwoChoices,
    Usable,
    least_cost,
    least_latency,
)
from headrace_gateway.inference.routing_rules import Policy, RoutingRules, stated_price
from headrace_gateway.inference.sequence_affinity import SequenceAffinity
from headrace_gateway.inference.slow_start import share
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession

URGENT_PRIORITY = 7
"""Calls of this priority or a higher one are never sent to a replica because it is cheap."""
_PATIENCE_RATIO = 0.25
_STEP_S = 0.001
_WARM_STEP_S = 0.1
_WITH_AFFINITY = frozenset({Policy.LEAST_COST, Policy.LATENCY})


@dataclass(slots=True, eq=False)
class _Tier:
    """Replicas of equal standing."""

    replicas: tuple[Replica, ...]
    choice: Choice


@dataclass(slots=True, eq=False)
class _Route:
    """What is decided for a version until a runner changes.

    Attributes:
        chain: By device preference, the most preferred first.
        by_price: The cheapest first; only where the policy asks for it and prices differ.
        warm_at: When the last replica has warmed up; shares are as of `shared_at`.
    """

    policy: Policy
    replicas: tuple[Replica, ...]
    chain: tuple[_Tier, ...]
    by_price: tuple[_Tier, ...]
    warm_at: float
    warming: bool
    shared_at: float = -math.inf


class Router:
    """Chooses a replica for each call. Pure but for the clock; one event loop.

    A route holds for a version until a runner comes, goes, loads or is ejected; a choice then looks at nothing but
    numbers. Beyond what `usable` says a replica must have credit for the call.

    Attributes:
        chosen: Calls for which a replica was found, by policy.
        fallbacks: Those of them that went to a less preferred device than some replica has, by its type.
        affinity: Calls with an affinity by whether they went where it says: `kept`, or `moved`.
    """

    def __init__(self, *, directory: RunnerDirectory, clock: Clock, random: Random, rules: RoutingRules) -> None:
        self._directory = directory
        self._clock = clock
        self._random = random
        self._rules = rules
        self._routes: dict[str, _Route] = {}
        self._sequences = SequenceAffinity(clock=clock)
        self.chosen = dict.fromkeys(Policy, 0)
        self.fallbacks: dict[str, int] = {}
        self.affinity = {"kept": 0, "moved": 0}
        directory.add_listener(lambda _runner_id: self._routes.clear())

    def choose(self, call: InferenceCall, usable: Usable) -> RunnerSession | None:
        """The replica that the call is to be sent to; None when none can be used."""
        version = call.version
        if call.sequence:
            return self._of_sequence(call, usable)
        route = self._routes.get(version.uid)
        if route is None:
            route = self._routes[version.uid] = self._plan(version)
        if route.warming:
            self._share(route)
        tiers = route.chain
        if call.affinity and route.policy in _WITH_AFFINITY:
            found = self._by_affinity(route, call, usable)
        elif route.by_price and call.priority < URGENT_PRIORITY and not call.latency_critical:
            found = self._cheapest(route.by_price, call, usable)
        elif len(tiers) == 1:
            found = tiers[0].choice(tiers[0].replicas, len(call.payload), usable)
        else:
            found = self._preferred(route, len(call.payload), usable)
        if found is None:
            return None
        self.chosen[route.policy] += 1
        return found.session

    def _of_sequence(self, call: InferenceCall, usable: Usable) -> RunnerSession | None:
        return self._sequences.pick(
            call,
            self._directory.replicas(call.version.uid),
            lambda session: session.calls.has_room(len(call.payload)) and usable(session),
            lambda session: self._rules.device_rank(call.version, session),
        )

    def _by_affinity(self, route: _Route, call: InferenceCall, usable: Usable) -> Replica | None:
        """Where the beginning of the call's prompt has been computed, or may as well be."""
        replicas = [replica for replica in route.replicas if replica.takes(len(call.payload), usable)]
        if not replicas:
            return None
        found = replicas[pick(call.affinity, [_place(replica) for replica in replicas], self._rules.affinity_slack)]
        home = min(route.replicas, key=lambda replica: (replica.rank, weight(call.affinity, replica.session.id)))
        self.affinity["kept" if found is home else "moved"] += 1
        return self._counted(found)

    def _preferred(self, route: _Route, payload_bytes: int, usable: Usable) -> Replica | None:
        """The first of the chain, unless it gives way to a later one."""
        ratio = 0.0 if route.policy is Policy.ROUND_ROBIN else self._rules.device_wait_ratio
        best: Replica | None = None
        for tier in route.chain:
            if best is not None and best.share >= 1.0 and (not ratio or best.work.pending_s < _STEP_S):
                break
            found = tier.choice(tier.replicas, payload_bytes, usable)
            if found is not None and (best is None or self._gives_way(best, found, ratio)):
                best = found
        return best and self._counted(best)

    def _counted(self, found: Replica) -> Replica:
        if found.rank:
            device_type = found.session.hello.device.type
            self.fallbacks[device_type] = self.fallbacks.get(device_type, 0) + 1
        return found

    def _gives_way(self, preferred: Replica, other: Replica, ratio: float) -> bool:
        """Whether the one has so much to do that the other is done long before it begins, or still warms up."""
        if ratio and preferred.work.pending_s > ratio * other.done_s:
            return True
        return preferred.share < other.share and self._random.random() * other.share > preferred.share

    def _cheapest(self, tiers: Sequence[_Tier], call: InferenceCall, usable: Usable) -> Replica | None:
        """The cheapest that is done within a quarter of the call's time; where none is, the first to be done."""
        patience_s = _PATIENCE_RATIO * (call.deadline - call.arrived_at)
        best: Replica | None = None
        for tier in tiers:
            found = tier.choice(tier.replicas, len(call.payload), usable)
            if found is not None:
                warm = found.share >= 1.0 or self._random.random() < found.share
                if warm and found.done_s <= patience_s:
                    return found
                if best is None or found.done_s < best.done_s:
                    best = found
        return best

    def _plan(self, version: CatalogVersion) -> _Route:
        rules = self._rules
        policy = rules.policy_of(version)
        replicas = tuple(
            Replica(session, session.calls, session.work, session.work.version(version.uid))
            for session in self._directory.replicas(version.uid)
        )
        chain = self._tiers(policy, replicas, lambda replica: rules.device_rank(version, replica.session))
        for rank, tier in enumerate(chain):
            for replica in tier.replicas:
                replica.rank = rank
        by_price: tuple[_Tier, ...] = ()
        if policy is Policy.CHEAPEST:
            priced = all(stated_price(replica.session) is not None for replica in replicas)
            by_price = self._tiers(policy, replicas, lambda replica: rules.price(replica.session, priced=priced))
        warm_at = max((replica.version.ready_at for replica in replicas), default=0.0) + rules.slow_start_s
        warming = len(replicas) > 1 and self._clock.monotonic() < warm_at
        return _Route(policy, replicas, chain, by_price, warm_at, warming)

    def _tiers(
        self, policy: Policy, replicas: Sequence[Replica], standing: Callable[[Replica], Any]
    ) -> tuple[_Tier, ...]:
        levels = sorted({standing(replica) for replica in replicas})
        return tuple(
            _Tier(tuple(replica for replica in replicas if standing(replica) == level), self._choice(policy))
            for level in levels
        )

    def _choice(self, policy: Policy) -> Choice:
        if policy is Policy.ROUND_ROBIN:
            return RoundRobin(random=self._random)
        return TwoChoices(choice=least_latency if policy is Policy.LATENCY else least_cost, random=self._random)

    def _share(self, route: _Route) -> None:
        """Says how far each replica has warmed up, next to the one that has most: alone none is slowed down."""
        now = self._clock.monotonic()
        if now - route.shared_at < _WARM_STEP_S:
            return
        route.shared_at = now
        route.warming = now < route.warm_at
        shares = [share(now - replica.version.ready_at, self._rules.slow_start_s) for replica in route.replicas]
        for replica, own in zip(route.replicas, shares, strict=True):
            replica.share = own / max(shares)


def _place(replica: Replica) -> Place:
    version = replica.version
    slots = version.slots * replica.share
    return Place(replica.session.id, replica.rank, version.places + version.others, slots)
