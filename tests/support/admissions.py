"""Who may join a mesh that tests make."""

from __future__ import annotations

from headrace_common.clock import SystemClock
from headrace_gateway.mesh.admission import Admissions


def admitting(token: str) -> Admissions:
    """Runners without a tenant that have this token."""
    return Admissions(
        shared_token=token, tokens_file=None, certificates=False, trust_domain="headrace", clock=SystemClock()
    )
