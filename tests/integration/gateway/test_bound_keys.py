"""A key that may do only some things with some models, through the gateway and the services behind it."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from headrace.gateway.v1 import generation_pb2, inference_pb2
from headrace.gateway.v1 import inference_pb2_grpc as packed_grpc
from headrace.quota.v1 import tenants_pb2, tenants_pb2_grpc
from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1 import models_pb2_grpc
from headrace_common.rpc_status import from_rpc_error
from inference import model_repository_pb2 as repository
from inference import model_statistics_pb2 as statistics
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support import onnx_models
from support.eventually import eventually
from support.gateway import FrontDoor, Pairs, fresh_name, upload


async def key_of(door: FrontDoor, tenant_id: str, *policies: tenants_pb2.ResourcePolicy) -> Pairs:
    stub = tenants_pb2_grpc.TenantServiceStub(door.channel)
    request = tenants_pb2.CreateApiKeyRequest(
        tenant_id=tenant_id, roles=[tenants_pb2.ROLE_MODEL_ADMIN], policies=policies
    )
    made = await stub.CreateApiKey(request, metadata=door.admin, timeout=30)
    await door.until_known(made.key)
    return (("x-api-key", made.key),)


async def told(call: Any) -> tuple[object, ...]:
    """Everything that a refused client gets but its request id; nothing where it is served."""
    try:
        if hasattr(call, "__aiter__") and not hasattr(call, "__await__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        trailing = [pair for pair in error.trailing_metadata() or () if pair[0] != "x-request-id"]
        return error.code(), error.details(), sorted(trailing)
    return ()


async def reason(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return ""


async def test_models_of_no_policy_are_absent_and_actions_are_bound(door: FrontDoor) -> None:
    tenant_id, _, key = await door.new_tenant(tenants_pb2.ROLE_MODEL_ADMIN)
    free: Pairs = (("x-api-key", key),)
    team = fresh_name()
    mine, read_only, shut, gone = f"{team}-mine", f"{team}-read", fresh_name(), fresh_name()
    for name in (mine, read_only, shut):
        version = await upload(door, name, onnx_models.tiny(), metadata=free)
        await eventually(lambda uid=version.uid: door.gateway.catalog.by_uid(uid) is not None)
    bound = await key_of(
        door,
        tenant_id,
        tenants_pb2.ResourcePolicy(actions=[tenants_pb2.ACTION_INFER], models=[mine]),
        tenants_pb2.ResourcePolicy(actions=[tenants_pb2.ACTION_READ], models=[f"{team}-*"]),
    )
    models = models_pb2_grpc.ModelServiceStub(door.channel)
    oip_stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel)
    packed = packed_grpc.InferenceServiceStub(door.channel)

    def named(name: str, who: Pairs) -> dict[str, Any]:
        options: Any = {"metadata": who, "timeout": 60}
        infer = oip.ModelInferRequest(model_name=name)
        return {
            "GetModel": models.GetModel(pb.GetModelRequest(name=name), **options),
            "GetVersion": models.GetVersion(pb.GetVersionRequest(model=name), **options),
            "ListVersions": models.ListVersions(pb.ListVersionsRequest(model=name), **options),
            "DownloadVersion": models.DownloadVersion(pb.DownloadVersionRequest(model=name), **options),
            "ArchiveVersion": models.ArchiveVersion(pb.ArchiveVersionRequest(model=name, version=1), **options),
            "ModelReady": oip_stub.ModelReady(oip.ModelReadyRequest(name=name), **options),
            "ModelMetadata": oip_stub.ModelMetadata(oip.ModelMetadataRequest(name=name), **options),
            "ModelStatistics": oip_stub.ModelStatistics(statistics.ModelStatisticsRequest(name=name), **options),
            "Load": oip_stub.RepositoryModelLoad(repository.RepositoryModelLoadRequest(model_name=name), **options),
            "Unload": oip_stub.RepositoryModelUnload(
                repository.RepositoryModelUnloadRequest(model_name=name), **options
            ),
            "ModelInfer": oip_stub.ModelInfer(infer, **options),
            "Infer": packed.Infer(inference_pb2.InferRequest(request=infer), **options),
            "Generate": packed.Generate(generation_pb2.GenerateRequest(model_name=name, text="x"), **options),
        }

    hidden = {method: await told(call) for method, call in named(shut, bound).items()}
    absent = {method: await told(call) for method, call in named(gone, free).items()}
    for method, refusal in hidden.items():
        assert refusal[0] is grpc.StatusCode.NOT_FOUND, method
        assert repr(refusal).replace(shut, gone) == repr(absent[method]), method

    options: Any = {"metadata": bound, "timeout": 60}
    for name in (mine, read_only):
        assert (await models.GetModel(pb.GetModelRequest(name=name), **options)).model.name == name
        assert (await oip_stub.ModelMetadata(oip.ModelMetadataRequest(name=name), **options)).name == name
        assert await reason(upload(door, name, onnx_models.tiny(), metadata=bound)) == "POLICY_FORBIDDEN"
        archive = models.ArchiveVersion(pb.ArchiveVersionRequest(model=name, version=1), **options)
        assert await reason(archive) == "POLICY_FORBIDDEN"
    assert await reason(upload(door, shut, onnx_models.tiny(), metadata=bound)) == "POLICY_FORBIDDEN"
    assert await reason(upload(door, fresh_name(), onnx_models.tiny(), metadata=bound)) == "POLICY_FORBIDDEN"
    refused = oip_stub.ModelInfer(oip.ModelInferRequest(model_name=read_only), **options)
    assert await reason(refused) == "POLICY_FORBIDDEN"
    # No runner is there: it was allowed to look for one.
    let_in = await reason(oip_stub.ModelInfer(oip.ModelInferRequest(model_name=mine), **options))
    assert let_in not in {"POLICY_FORBIDDEN", "MODEL_NOT_FOUND"}

    listed = await models.ListModels(pb.ListModelsRequest(page_size=1000), **options)
    assert sorted(model.name for model in listed.models) == sorted([mine, read_only])
    index = await oip_stub.RepositoryIndex(repository.RepositoryIndexRequest(), **options)
    assert sorted(model.name for model in index.models) == sorted([mine, read_only])
    counted = await oip_stub.ModelStatistics(statistics.ModelStatisticsRequest(), **options)
    assert sorted(model.name for model in counted.model_stats) == sorted([mine, read_only])
    everything = await models.ListModels(pb.ListModelsRequest(page_size=1000), metadata=free, timeout=60)
    assert {mine, read_only, shut} <= {model.name for model in everything.models}
