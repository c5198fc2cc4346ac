"""Whose runners a tenant's models run on."""

from __future__ import annotations

from collections.abc import Callable

from headrace_gateway.mesh.runner_session import RunnerSession

TENANT_LABEL = "tenant"
"""Label of a runner that serves this tenant and nobody else."""


class Isolation:
    """Keeps tenants apart by runners. Pure over what it is given.

    Args:
        dedicated: Whether a tenant may only be served by runners of its own.
        tenant_of: Whose a version is; None for one that has left service.
    """

    def __init__(self, *, dedicated: Callable[[str], bool], tenant_of: Callable[[str], str | None]) -> None:
        self._dedicated = dedicated
        self._tenant_of = tenant_of

    def serves(self, session: RunnerSession, tenant_id: str) -> bool:
        """Whether the runner may have this tenant's models."""
        owner = owner_of(session)
        return owner == tenant_id if owner else not self._dedicated(tenant_id)

    def serves_version(self, session: RunnerSession, version_uid: str) -> bool:
        """Whether the runner may have the version."""
        tenant_id = self._tenant_of(version_uid)
        return tenant_id is None or self.serves(session, tenant_id)


def owner_of(session: RunnerSession) -> str:
    """The only tenant that the runner serves; empty where it serves all that share."""
    return session.hello.labels.get(TENANT_LABEL, "")
