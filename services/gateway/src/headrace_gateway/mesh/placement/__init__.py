"""Which runner has which model: wants, replica counts, warm pools and cutovers, from what runners report."""

from headrace_gateway.mesh.placement.placement_metrics import PlacementMetrics
from headrace_gateway.mesh.placement.replica_count import ScalingRule
from headrace_gateway.mesh.placement.wants import PlacementPolicy, Wants

__all__ = ["PlacementMetrics", "PlacementPolicy", "ScalingRule", "Wants"]
