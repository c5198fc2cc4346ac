"""Placement as a gateway has it by default, for tests that change one thing of it."""

from __future__ import annotations

from typing import Any

from headrace_gateway.mesh.placement import PlacementPolicy, ScalingRule

SCALING = ScalingRule(wait_max_s=0.1, up_after_s=5.0, down_after_s=300.0)


def placement(**changes: Any) -> PlacementPolicy:
    """The policy of a gateway whose settings say nothing, but for `changes`."""
    values: dict[str, Any] = {"scaling": SCALING, "keep_s": 300.0, "cutover_wait_s": 120.0, **changes}
    return PlacementPolicy(**values)
