"""How this runner meets gateways: one session with each, every session a control lane and two data lanes."""

from headrace_runner.mesh.client import MeshClient

__all__ = ["MeshClient"]
