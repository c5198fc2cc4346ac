"""The RPCs of a mesh that this package calls, with the types of their messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from headrace_client.contracts.headrace.gateway.v1 import generation_pb2, inference_pb2, mesh_pb2
from headrace_client.contracts.headrace.jobs.v1 import jobs_pb2
from headrace_client.contracts.headrace.quota.v1 import audit_pb2, quotas_pb2, tenants_pb2, usage_pb2
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.contracts.inference import model_repository_pb2, model_statistics_pb2, open_inference_pb2

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Q, R]):
    """One method of a service.

    Attributes:
        path: `/package.Service/Method`.
        request: Type of its request, or of each request of a stream.
        response: Type of its response, or of each response of a stream.
        repeatable: Whether it may be called again when nobody knows if the first call took effect.
    """

    path: str
    request: type[Q]
    response: type[R]
    repeatable: bool = True


_INFERENCE = "/headrace.gateway.v1.InferenceService/"
INFER = Rpc(_INFERENCE + "Infer", inference_pb2.InferRequest, inference_pb2.InferResponse)
STREAM = Rpc(_INFERENCE + "Stream", inference_pb2.StreamRequest, inference_pb2.StreamResponse)
GENERATE = Rpc(_INFERENCE + "Generate", generation_pb2.GenerateRequest, generation_pb2.GenerateResponse)

_MESH = "/headrace.gateway.v1.MeshService/"
LIST_RUNNERS = Rpc(_MESH + "ListRunners", mesh_pb2.ListRunnersRequest, mesh_pb2.ListRunnersResponse)
WATCH_RUNNERS = Rpc(_MESH + "WatchRunners", mesh_pb2.WatchRunnersRequest, mesh_pb2.WatchRunnersResponse)
DRAIN_RUNNER = Rpc(_MESH + "DrainRunner", mesh_pb2.DrainRunnerRequest, mesh_pb2.DrainRunnerResponse)

_MODELS = "/headrace.registry.v1.ModelService/"
CREATE_MODEL = Rpc(_MODELS + "CreateModel", models_pb2.CreateModelRequest, models_pb2.CreateModelResponse)
GET_MODEL = Rpc(_MODELS + "GetModel", models_pb2.GetModelRequest, models_pb2.GetModelResponse)
LIST_MODELS = Rpc(_MODELS + "ListModels", models_pb2.ListModelsRequest, models_pb2.ListModelsResponse)
UPLOAD_VERSION = Rpc(_MODELS + "UploadVersion", models_pb2.UploadVersionRequest, models_pb2.UploadVersionResponse)
GET_VERSION = Rpc(_MODELS + "GetVersion", models_pb2.GetVersionRequest, models_pb2.GetVersionResponse)
LIST_VERSIONS = Rpc(_MODELS + "ListVersions", models_pb2.ListVersionsRequest, models_pb2.ListVersionsResponse)
DOWNLOAD_VERSION = Rpc(
    _MODELS + "DownloadVersion", models_pb2.DownloadVersionRequest, models_pb2.DownloadVersionResponse
)
ARCHIVE_VERSION = Rpc(_MODELS + "ArchiveVersion", models_pb2.ArchiveVersionRequest, models_pb2.ArchiveVersionResponse)

_TENANTS = "/headrace.quota.v1.TenantService/"
CREATE_TENANT = Rpc(_TENANTS + "CreateTenant", tenants_pb2.CreateTenantRequest, tenants_pb2.CreateTenantResponse)
GET_TENANT = Rpc(_TENANTS + "GetTenant", tenants_pb2.GetTenantRequest, tenants_pb2.GetTenantResponse)
LIST_TENANTS = Rpc(_TENANTS + "ListTenants", tenants_pb2.ListTenantsRequest, tenants_pb2.ListTenantsResponse)
SUSPEND_TENANT = Rpc(_TENANTS + "SuspendTenant", tenants_pb2.SuspendTenantRequest, tenants_pb2.SuspendTenantResponse)
RESUME_TENANT = Rpc(_TENANTS + "ResumeTenant", tenants_pb2.ResumeTenantRequest, tenants_pb2.ResumeTenantResponse)
CREATE_API_KEY = Rpc(
    _TENANTS + "CreateApiKey", tenants_pb2.CreateApiKeyRequest, tenants_pb2.CreateApiKeyResponse, repeatable=False
)
LIST_API_KEYS = Rpc(_TENANTS + "ListApiKeys", tenants_pb2.ListApiKeysRequest, tenants_pb2.ListApiKeysResponse)
REVOKE_API_KEY = Rpc(_TENANTS + "RevokeApiKey", tenants_pb2.RevokeApiKeyRequest, tenants_pb2.RevokeApiKeyResponse)
UPDATE_TENANT = Rpc(_TENANTS + "UpdateTenant", tenants_pb2.UpdateTenantRequest, tenants_pb2.UpdateTenantResponse)
ROTATE_API_KEY = Rpc(
    _TENANTS + "RotateApiKey", tenants_pb2.RotateApiKeyRequest, tenants_pb2.RotateApiKeyResponse, repeatable=False
)

_QUOTAS = "/headrace.quota.v1.QuotaService/"
SET_PLAN = Rpc(_QUOTAS + "SetPlan", quotas_pb2.SetPlanRequest, quotas_pb2.SetPlanResponse)
GET_PLAN = Rpc(_QUOTAS + "GetPlan", quotas_pb2.GetPlanRequest, quotas_pb2.GetPlanResponse)
LIST_PLANS = Rpc(_QUOTAS + "ListPlans", quotas_pb2.ListPlansRequest, quotas_pb2.ListPlansResponse)
DELETE_PLAN = Rpc(_QUOTAS + "DeletePlan", quotas_pb2.DeletePlanRequest, quotas_pb2.DeletePlanResponse)
SET_LIMITS = Rpc(_QUOTAS + "SetLimits", quotas_pb2.SetLimitsRequest, quotas_pb2.SetLimitsResponse)
GET_LIMITS = Rpc(_QUOTAS + "GetLimits", quotas_pb2.GetLimitsRequest, quotas_pb2.GetLimitsResponse)
GET_QUOTA_USAGE = Rpc(_QUOTAS + "GetQuotaUsage", quotas_pb2.GetQuotaUsageRequest, quotas_pb2.GetQuotaUsageResponse)
RESET_QUOTA_USAGE = Rpc(
    _QUOTAS + "ResetQuotaUsage", quotas_pb2.ResetQuotaUsageRequest, quotas_pb2.ResetQuotaUsageResponse
)
GET_QUOTA_STATISTICS = Rpc(
    _QUOTAS + "GetQuotaStatistics", quotas_pb2.GetQuotaStatisticsRequest, quotas_pb2.GetQuotaStatisticsResponse
)

_USAGE = "/headrace.quota.v1.UsageService/"
LIST_REQUESTS = Rpc(_USAGE + "ListRequests", usage_pb2.ListRequestsRequest, usage_pb2.ListRequestsResponse)
EXPORT_REQUESTS = Rpc(_USAGE + "ExportRequests", usage_pb2.ExportRequestsRequest, usage_pb2.ExportRequestsResponse)
SUMMARIZE_USAGE = Rpc(_USAGE + "SummarizeUsage", usage_pb2.SummarizeUsageRequest, usage_pb2.SummarizeUsageResponse)
LIST_RUNNER_EVENTS = Rpc(
    _USAGE + "ListRunnerEvents", usage_pb2.ListRunnerEventsRequest, usage_pb2.ListRunnerEventsResponse
)

_AUDIT = "/headrace.quota.v1.AuditService/"
LIST_AUDIT_ENTRIES = Rpc(
    _AUDIT + "ListAuditEntries", audit_pb2.ListAuditEntriesRequest, audit_pb2.ListAuditEntriesResponse
)

_JOBS = "/headrace.jobs.v1.JobService/"
SUBMIT_INFERENCE = Rpc(
    _JOBS + "SubmitInference", jobs_pb2.SubmitInferenceRequest, jobs_pb2.SubmitInferenceResponse, repeatable=False
)
GET_JOB = Rpc(_JOBS + "GetJob", jobs_pb2.GetJobRequest, jobs_pb2.GetJobResponse)

_OPEN = "/inference.GRPCInferenceService/"
SERVER_LIVE = Rpc(_OPEN + "ServerLive", open_inference_pb2.ServerLiveRequest, open_inference_pb2.ServerLiveResponse)
SERVER_READY = Rpc(_OPEN + "ServerReady", open_inference_pb2.ServerReadyRequest, open_inference_pb2.ServerReadyResponse)
SERVER_METADATA = Rpc(
    _OPEN + "ServerMetadata", open_inference_pb2.ServerMetadataRequest, open_inference_pb2.ServerMetadataResponse
)
MODEL_READY = Rpc(_OPEN + "ModelReady", open_inference_pb2.ModelReadyRequest, open_inference_pb2.ModelReadyResponse)
MODEL_METADATA = Rpc(
    _OPEN + "ModelMetadata", open_inference_pb2.ModelMetadataRequest, open_inference_pb2.ModelMetadataResponse
)
MODEL_CONFIG = Rpc(_OPEN + "ModelConfig", open_inference_pb2.ModelConfigRequest, open_inference_pb2.ModelConfigResponse)
MODEL_STATISTICS = Rpc(
    _OPEN + "ModelStatistics",
    model_statistics_pb2.ModelStatisticsRequest,
    model_statistics_pb2.ModelStatisticsResponse,
)
REPOSITORY_INDEX = Rpc(
    _OPEN + "RepositoryIndex",
    model_repository_pb2.RepositoryIndexRequest,
    model_repository_pb2.RepositoryIndexResponse,
)
LOAD_MODEL = Rpc(
    _OPEN + "RepositoryModelLoad",
    model_repository_pb2.RepositoryModelLoadRequest,
    model_repository_pb2.RepositoryModelLoadResponse,
)
UNLOAD_MODEL = Rpc(
    _OPEN + "RepositoryModelUnload",
    model_repository_pb2.RepositoryModelUnloadRequest,
    model_repository_pb2.RepositoryModelUnloadResponse,
)
