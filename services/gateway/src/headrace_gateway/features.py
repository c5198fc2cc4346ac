"""What operators have switched off for tenants."""

from __future__ import annotations

from headrace_common.catalogue import FEATURE_DISABLED
from headrace_common.errors import TenantError
from headrace_gateway.principal_table import PrincipalTable

GENERATE = "generate"

FEATURE_OF = {
    "/inference.GRPCInferenceService/ModelStreamInfer": "stream",
    "/headrace.gateway.v1.InferenceService/InferBatch": "batch",
    "/headrace.registry.v1.ModelService/UploadVersion": "upload",
    "/headrace.jobs.v1.JobService/SubmitInference": "async",
}
"""The feature that a method belongs to. `generate` belongs to the models that do; `http` and `openai` are named by
fronts, which also name `batch`, because they run the inferences of one as single ones."""


class Features:
    """Refuses what is switched off. Pure over the table, so that a switch counts from the moment it is known here."""

    def __init__(self, *, table: PrincipalTable) -> None:
        self._table = table

    def require(self, feature: str, tenant_id: str) -> None:
        """Refuses a feature that the tenant doesn't have.

        Raises:
            TenantError: FEATURE_DISABLED (PERMISSION_DENIED).
        """
        if feature in self._table.features_off(tenant_id):
            raise TenantError(
                f"the feature '{feature}' is switched off for tenant '{tenant_id}'",
                entry=FEATURE_DISABLED,
                context={"tenant": tenant_id, "feature": feature},
            )
