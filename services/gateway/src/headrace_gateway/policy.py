"""Who may call which method. A method without a line here can't be called."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from headrace_common.catalogue import ROLE_FORBIDDEN
from headrace_common.errors import AuthError
from headrace_common.principal import Principal

OPERATORS_TENANT = "default"


class Access(Enum):
    """What a method demands of its caller; each role includes the ones before it."""

    PUBLIC = "public"
    VIEWER = "viewer"
    USER = "user"
    MODEL_ADMIN = "model_admin"
    ADMIN = "admin"
    OPERATOR = "operator"


_ROLES_AT_LEAST = {
    Access.VIEWER: frozenset({"viewer", "user", "model_admin", "admin"}),
    Access.USER: frozenset({"user", "model_admin", "admin"}),
    Access.MODEL_ADMIN: frozenset({"model_admin", "admin"}),
    Access.ADMIN: frozenset({"admin"}),
    Access.OPERATOR: frozenset({"admin"}),
}

INFERENCE = "inference.GRPCInferenceService"
PACKED = "headrace.gateway.v1.InferenceService"
MESH = "headrace.gateway.v1.MeshService"
MODELS = "headrace.registry.v1.ModelService"
TENANTS = "headrace.quota.v1.TenantService"
QUOTAS = "headrace.quota.v1.QuotaService"
USAGE = "headrace.quota.v1.UsageService"
AUDIT = "headrace.quota.v1.AuditService"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_BY_SERVICE: dict[str, dict[str, Access]] = {
    INFERENCE: {
        "ServerLive": Access.PUBLIC,
        "ServerReady": Access.PUBLIC,
        "ServerMetadata": Access.VIEWER,
        "ModelReady": Access.VIEWER,
        "ModelMetadata": Access.VIEWER,
        "ModelInfer": Access.USER,
        "ModelStreamInfer": Access.USER,
        "ModelConfig": Access.VIEWER,
        "ModelStatistics": Access.VIEWER,
        "RepositoryIndex": Access.VIEWER,
        "RepositoryModelLoad": Access.MODEL_ADMIN,
        "RepositoryModelUnload": Access.MODEL_ADMIN,
    },
    PACKED: {
        "Infer": Access.USER,
        "InferBatch": Access.USER,
        "Stream": Access.USER,
        "Generate": Access.USER,
    },
    MESH: {
        "ListRunners": Access.VIEWER,
        "WatchRunners": Access.VIEWER,
        "DrainRunner": Access.OPERATOR,
    },
    MODELS: {
        "CreateModel": Access.MODEL_ADMIN,
        "GetModel": Access.VIEWER,
        "ListModels": Access.VIEWER,
        "UploadVersion": Access.MODEL_ADMIN,
        "GetVersion": Access.VIEWER,
        "ListVersions": Access.VIEWER,
        "DownloadVersion": Access.VIEWER,
        "ArchiveVersion": Access.MODEL_ADMIN,
    },
    # Where a request names a tenant, a foreign one must look absent to every role, so the quota service decides.
    TENANTS: {
        "CreateTenant": Access.OPERATOR,
        "GetTenant": Access.VIEWER,
        "ListTenants": Access.OPERATOR,
        "SuspendTenant": Access.VIEWER,
        "ResumeTenant": Access.VIEWER,
        "CreateApiKey": Access.VIEWER,
        "ListApiKeys": Access.VIEWER,
        "RevokeApiKey": Access.ADMIN,
        "UpdateTenant": Access.VIEWER,
        "RotateApiKey": Access.ADMIN,
    },
    QUOTAS: {
        "SetPlan": Access.OPERATOR,
        "GetPlan": Access.VIEWER,
        "ListPlans": Access.OPERATOR,
        "DeletePlan": Access.OPERATOR,
        "SetLimits": Access.VIEWER,
        "GetLimits": Access.VIEWER,
        "GetQuotaUsage": Access.VIEWER,
        "ResetQuotaUsage": Access.VIEWER,
        "GetQuotaStatistics": Access.OPERATOR,
    },
    USAGE: {
        "ListRequests": Access.VIEWER,
        "ExportRequests": Access.VIEWER,
        "SummarizeUsage": Access.VIEWER,
        "ListRunnerEvents": Access.OPERATOR,
    },
    AUDIT: {"ListAuditEntries": Access.VIEWER},
}


def policy(*, reflection: Access | None) -> Mapping[str, Access]:
    """The access that each method demands, by full name such as `/package.Service/Method`.

    Args:
        reflection: What the reflection service demands; None where it isn't served.
    """
    access = {
        f"/{service}/{method}": demand for service, demands in _BY_SERVICE.items() for method, demand in demands.items()
    }
    if reflection is not None:
        access.update({f"/{service}/ServerReflectionInfo": reflection for service in REFLECTION})
    return MappingProxyType(access)


def is_operator(principal: Principal) -> bool:
    """Whether the principal runs the mesh: an admin of the operators' tenant."""
    return principal.tenant_id == OPERATORS_TENANT and "admin" in principal.roles


def require(demand: Access, principal: Principal) -> None:
    """Refuses a caller whose roles fall short.

    Raises:
        AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED).
    """
    if demand is Access.PUBLIC:
        return
    if principal.roles.isdisjoint(_ROLES_AT_LEAST[demand]):
        needed = "admin" if demand is Access.OPERATOR else demand.value
        raise AuthError(f"this method needs the role '{needed}'", entry=ROLE_FORBIDDEN, context={"required": needed})
    if demand is Access.OPERATOR and principal.tenant_id != OPERATORS_TENANT:
        raise AuthError(
            f"this method needs the role 'admin' of the tenant '{OPERATORS_TENANT}'",
            entry=ROLE_FORBIDDEN,
            context={"required": "operator"},
        )
