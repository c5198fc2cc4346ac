"""What a manifest may say of its replicas: how many there are, and which one gets a request. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from headrace.registry.v1.manifest_pb2 import PlacementPolicy, PlacementRule, ReplicaChoice, RoutingPolicy
from headrace_registry.execution_rules import check_duration
from headrace_registry.manifest_faults import wrong

REPLICAS_MAX = 64
RULES_MAX = 32
CRON_CHARS_MAX = 128
CRON_FIELDS = 5
HEDGE_AFTER_MAX_S = 3_600


def check_placement(placement: PlacementPolicy) -> None:
    """Refuses bounds that can't be kept and times that can't be read.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT); names the field and its limit.
    """
    _check_bounds("placement", placement)
    if len(placement.schedule) > RULES_MAX:
        raise wrong("placement.schedule", f"has {len(placement.schedule)} rules, at most {RULES_MAX} are allowed")
    for index, rule in enumerate(placement.schedule):
        field = f"placement.schedule[{index}]"
        _check_bounds(field, rule)
        _check_cron(f"{field}.cron", rule.cron)


def check_routing(routing: RoutingPolicy) -> None:
    """Refuses a choice that nobody knows and a second request that is sent at once or never.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT).
    """
    if routing.choice not in ReplicaChoice.values():
        raise wrong("routing.choice", f"is {routing.choice}, it must be one of {', '.join(ReplicaChoice.keys())}")
    if routing.HasField("hedge_after"):
        check_duration("routing.hedge_after", routing.hedge_after, max_s=HEDGE_AFTER_MAX_S)


def _check_bounds(field: str, bounds: PlacementPolicy | PlacementRule) -> None:
    for name, value in (("min_replicas", bounds.min_replicas), ("max_replicas", bounds.max_replicas)):
        if value > REPLICAS_MAX:
            raise wrong(f"{field}.{name}", f"is {value}, at most {REPLICAS_MAX} is allowed")
    if 0 < bounds.max_replicas < bounds.min_replicas:
        raise wrong(f"{field}.min_replicas", f"is {bounds.min_replicas}, max_replicas is {bounds.max_replicas}")


def _check_cron(field: str, cron: str) -> None:
    if len(cron) > CRON_CHARS_MAX or len(cron.split()) != CRON_FIELDS:
        raise wrong(field, "must have five fields: minute, hour, day of month, month, day of week")
    try:
        first = next(CronSim(cron, datetime.now(UTC)), None)
    except CronSimError:
        first = None
    if first is None:
        raise wrong(field, "is not a time that ever comes, or has a field that can't be read")
