"""Which methods leave an entry in the audit log, and what in their requests says what they are about."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from headrace_gateway.policy import AUDIT, INFERENCE, MESH, MODELS, PACKED, QUOTAS, TENANTS, USAGE

Fields = tuple[str, ...]
"""Paths of fields whose values name the resource, with `/` between those that are there."""
UNAUDITED: Fields | None = None
"""It reads, or it infers, which the ledger has."""

_BY_SERVICE: dict[str, dict[str, Fields | None]] = {
    INFERENCE: {
        "ServerLive": UNAUDITED,
        "ServerReady": UNAUDITED,
        "ServerMetadata": UNAUDITED,
        "ModelReady": UNAUDITED,
        "ModelMetadata": UNAUDITED,
        "ModelInfer": UNAUDITED,
        "ModelStreamInfer": UNAUDITED,
        "ModelConfig": UNAUDITED,
        "ModelStatistics": UNAUDITED,
        "RepositoryIndex": UNAUDITED,
        # KServe's clients send the model's name where Triton's send a repository's, which has none here.
        "RepositoryModelLoad": ("repository_name", "model_name"),
        "RepositoryModelUnload": ("repository_name", "model_name"),
    },
    PACKED: {"Infer": UNAUDITED, "InferBatch": UNAUDITED, "Stream": UNAUDITED, "Generate": UNAUDITED},
    MESH: {"ListRunners": UNAUDITED, "WatchRunners": UNAUDITED, "DrainRunner": ("id",)},
    MODELS: {
        "CreateModel": ("name",),
        "GetModel": UNAUDITED,
        "ListModels": UNAUDITED,
        "UploadVersion": ("header.model", "header.version"),
        "GetVersion": UNAUDITED,
        "ListVersions": UNAUDITED,
        "DownloadVersion": UNAUDITED,
        "ArchiveVersion": ("model", "version"),
    },
    TENANTS: {
        "CreateTenant": ("id",),
        "GetTenant": UNAUDITED,
        "ListTenants": UNAUDITED,
        "UpdateTenant": ("tenant.id",),
        "SuspendTenant": ("id",),
        "ResumeTenant": ("id",),
        "CreateApiKey": ("tenant_id",),
        "ListApiKeys": UNAUDITED,
        "RevokeApiKey": ("id",),
        "RotateApiKey": ("id",),
    },
    QUOTAS: {
        "SetPlan": ("plan.name",),
        "GetPlan": UNAUDITED,
        "ListPlans": UNAUDITED,
        "DeletePlan": ("name",),
        "SetLimits": ("tenant_id",),
        "GetLimits": UNAUDITED,
        "GetQuotaUsage": UNAUDITED,
        "ResetQuotaUsage": ("tenant_id", "model"),
        "GetQuotaStatistics": UNAUDITED,
    },
    USAGE: {
        "ListRequests": UNAUDITED,
        "ExportRequests": UNAUDITED,
        "SummarizeUsage": UNAUDITED,
        "ListRunnerEvents": UNAUDITED,
    },
    AUDIT: {"ListAuditEntries": UNAUDITED},
}

AUDITED_METHODS: Mapping[str, Fields | None] = MappingProxyType(
    {f"/{service}/{method}": fields for service, methods in _BY_SERVICE.items() for method, fields in methods.items()}
)
"""By full name such as `/package.Service/Method`; every public method is in it."""
