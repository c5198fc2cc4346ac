"""The RPCs as the client names them are those of the contracts."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pool import Default

import headrace.gateway.v1.inference_pb2
import headrace.gateway.v1.mesh_pb2
import headrace.jobs.v1.jobs_pb2
import headrace.quota.v1.audit_pb2
import headrace.quota.v1.quotas_pb2
import headrace.quota.v1.tenants_pb2
import headrace.quota.v1.usage_pb2
import headrace.registry.v1.models_pb2
import inference.open_inference_pb2
from headrace_client import rpcs
from headrace_client.private_pool import POOL
from headrace_client.rpcs import Rpc

SERVED = (
    headrace.gateway.v1.inference_pb2,
    headrace.gateway.v1.mesh_pb2,
    headrace.jobs.v1.jobs_pb2,
    headrace.quota.v1.audit_pb2,
    headrace.quota.v1.quotas_pb2,
    headrace.quota.v1.tenants_pb2,
    headrace.quota.v1.usage_pb2,
    headrace.registry.v1.models_pb2,
    inference.open_inference_pb2,
)
RPCS: dict[str, Rpc[Any, Any]] = {name: rpc for name, rpc in vars(rpcs).items() if isinstance(rpc, Rpc)}
# What one reaches with infer, infer_many or stream instead.
UNUSED = {
    "/headrace.gateway.v1.InferenceService/InferBatch",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
}


@pytest.mark.parametrize("name", RPCS)
def test_an_rpc_has_the_messages_of_its_contract(name: str) -> None:
    rpc = RPCS[name]
    service, _, method_name = rpc.path.removeprefix("/").partition("/")
    method = POOL.FindServiceByName(service).methods_by_name[method_name]
    assert (method.input_type, method.output_type) == (rpc.request.DESCRIPTOR, rpc.response.DESCRIPTOR)


def test_every_public_rpc_can_be_called() -> None:
    public = {
        f"/{service.full_name}/{method.name}"
        for module in SERVED
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {rpc.path for rpc in RPCS.values()} == public - UNUSED
    assert public >= UNUSED


def test_only_making_a_key_or_a_job_is_never_repeated() -> None:
    assert {name for name, rpc in RPCS.items() if not rpc.repeatable} == {
        "CREATE_API_KEY",
        "ROTATE_API_KEY",
        "SUBMIT_INFERENCE",
    }


def test_messages_never_enter_the_default_pool() -> None:
    own = rpcs.INFER.request.DESCRIPTOR
    assert own.file.pool is POOL
    assert Default().FindMessageTypeByName(own.full_name) is not own
