"""Every public RPC, called through the gateway by a raw stub. Which there are, the descriptors say."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from headrace.gateway.v1 import mesh_pb2
from headrace.quota.v1 import tenants_pb2 as quota
from headrace.registry.v1 import models_pb2 as registry
from inference import open_inference_pb2 as oip
from support import onnx_models
from support.mesh import Mesh
from support.open_inference_cases import INFERENCE, model_infer
from support.packed_inference_cases import PACKED
from support.parties import Party, operator, until
from support.quota_cases import QUOTAS
from support.refusals import refusal_of
from support.rpc_cases import CASES, World, case
from support.usage_cases import AUDIT, USAGE

HEALTH = "grpc.health.v1.Health"
MESH = "headrace.gateway.v1.MeshService"
MODELS = "headrace.registry.v1.ModelService"
TENANTS = "headrace.quota.v1.TenantService"
PUBLIC = (HEALTH, PACKED, INFERENCE, MESH, MODELS, TENANTS, QUOTAS, USAGE, AUDIT)
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
NOT_SERVED = {f"{HEALTH}/List"}
"""What the contracts have and this release doesn't."""


def described(services: tuple[str, ...]) -> dict[str, MethodDescriptor]:
    """Every method of these services as the contracts have them, by `package.Service/Method`."""
    pool = Default()
    return {
        f"{service}/{method.name}": method for service in services for method in pool.FindServiceByName(service).methods
    }


@pytest.fixture(scope="module")
def world(mesh: Mesh) -> Iterator[World]:
    with grpc.insecure_channel(mesh.grpc) as channel:
        admin = operator(mesh, channel)
        tenant, file = admin.tenant(), onnx_models.tiny()
        yield World(
            channel=channel,
            tenant=tenant,
            owner=tenant.admin,
            operator=admin,
            model="tiny",
            file=file,
            version=tenant.admin.push("tiny", file),
        )


def test_every_method_of_every_public_service_has_a_case(world: World) -> None:
    assert set(listed(world, REFLECTION[0])) == set(PUBLIC)
    methods = set(described(PUBLIC)) | {f"{service}/ServerReflectionInfo" for service in REFLECTION}
    assert set(CASES) | NOT_SERVED == methods
    assert not set(CASES) & NOT_SERVED


@pytest.mark.parametrize("method", [*described(PUBLIC), *(f"{service}/ServerReflectionInfo" for service in REFLECTION)])
def test_answers_a_good_request_or_says_that_it_is_not_served(method: str, world: World) -> None:
    if method in NOT_SERVED:
        assert_not_served(described(PUBLIC)[method], world)
    else:
        CASES[method](world)


def assert_not_served(method: MethodDescriptor, world: World) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    empty = GetMessageClass(method.input_type)().SerializeToString()
    for party in (world.owner, Party(world.channel, ())):
        call: Any = world.channel.stream_stream(path)
        refused = refusal_of(lambda party=party, call=call: party(call, iter([empty])))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")
        assert refused.context == {"code": "ROUTE_003", "method": path}
        assert not refused.leaks(asked_for=path)


@case(f"{MESH}/ListRunners")
def list_runners(world: World) -> None:
    model_infer(world)
    answer = world.owner(world.owner.mesh.ListRunners, mesh_pb2.ListRunnersRequest())
    assert answer.gateway_id.startswith("gateway-0")
    assert [runner.name for runner in answer.runners] == ["runner-0", "runner-1"]
    loaded = {model.version_uid for runner in answer.runners for model in runner.models}
    assert loaded == {world.version.uid}, "a tenant sees its own models"


@case(f"{MESH}/WatchRunners")
def watch_runners(world: World) -> None:
    stream = world.owner(world.owner.mesh.WatchRunners, mesh_pb2.WatchRunnersRequest())
    told = [next(stream).runner for _ in range(2)]
    stream.cancel()
    assert [(runner.name, runner.state) for runner in told] == [
        (name, mesh_pb2.RUNNER_STATE_READY) for name in ("runner-0", "runner-1")
    ]


@case(f"{MESH}/DrainRunner")
def drain_runner(world: World) -> None:
    stub = world.operator.mesh

    def ready() -> dict[str, str]:
        runners = world.operator(stub.ListRunners, mesh_pb2.ListRunnersRequest()).runners
        return {runner.name: runner.id for runner in runners if runner.state == mesh_pb2.RUNNER_STATE_READY}

    until(lambda: len(ready()) == 2)
    before = ready()
    drained = world.operator(stub.DrainRunner, mesh_pb2.DrainRunnerRequest(id=before["runner-1"])).runner
    assert (drained.id, drained.state) == (before["runner-1"], mesh_pb2.RUNNER_STATE_DRAINING)
    model_infer(world)
    # It leaves, and `headrace up` starts it again: the mesh is left as it was found.
    until(lambda: ready().keys() == before.keys() and ready()["runner-1"] != before["runner-1"], within_s=60)
    assert ready()["runner-0"] == before["runner-0"]


@case(f"{MODELS}/CreateModel")
def create_model(world: World) -> None:
    wanted = registry.CreateModelRequest(name=fresh(), description="empty so far", metadata={"team": "search"})
    model = world.owner(world.owner.models.CreateModel, wanted).model
    assert (model.name, model.description, model.metadata["team"]) == (wanted.name, "empty so far", "search")
    assert (model.latest_version, model.HasField("create_time")) == (0, True)


@case(f"{MODELS}/GetModel")
def get_model(world: World) -> None:
    model = world.owner(world.owner.models.GetModel, registry.GetModelRequest(name=world.model)).model
    assert (model.name, model.latest_version) == (world.model, 1)


@case(f"{MODELS}/ListModels")
def list_models(world: World) -> None:
    wanted = {world.model, *(fresh() for _ in range(2))}
    for name in wanted:
        world.owner(world.owner.models.CreateModel, registry.CreateModelRequest(name=name))
    names = paged(lambda page: world.owner(world.owner.models.ListModels, registry.ListModelsRequest(**page)), "models")
    found = [model.name for model in names]
    assert found == sorted(set(found)) and wanted <= set(found)


@case(f"{MODELS}/UploadVersion")
def upload_version(world: World) -> None:
    content = onnx_models.add()
    version = world.owner.push(fresh(), content)
    assert (version.version, version.state) == (1, registry.VERSION_STATE_READY)
    (file,) = version.files
    assert (file.sha256, file.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert [spec.name for spec in version.manifest.inputs] == ["x", "y"]


@case(f"{MODELS}/GetVersion")
def get_version(world: World) -> None:
    latest = registry.GetVersionRequest(model=world.model)
    assert world.owner(world.owner.models.GetVersion, latest).version == world.version


@case(f"{MODELS}/ListVersions")
def list_versions(world: World) -> None:
    name = fresh()
    uids = [world.owner.push(name, onnx_models.tiny(seed=seed)).uid for seed in range(3)]
    versions = paged(
        lambda page: world.owner(world.owner.models.ListVersions, registry.ListVersionsRequest(model=name, **page)),
        "versions",
    )
    assert [version.uid for version in versions] == uids[::-1]


@case(f"{MODELS}/DownloadVersion")
def download_version(world: World) -> None:
    wanted = registry.DownloadVersionRequest(model=world.model, version=1)
    first, *rest = world.owner(world.owner.models.DownloadVersion, wanted)
    assert first.file == world.version.files[0]
    assert first.chunk + b"".join(part.chunk for part in rest) == world.file


@case(f"{MODELS}/ArchiveVersion")
def archive_version(world: World) -> None:
    name = fresh()
    world.owner.push(name, world.file)
    wanted = registry.ArchiveVersionRequest(model=name, version=1)
    version = world.owner(world.owner.models.ArchiveVersion, wanted).version
    assert (version.state, version.HasField("archive_time")) == (registry.VERSION_STATE_ARCHIVED, True)
    ask = oip.ModelReadyRequest(name=name, version="1")
    until(lambda: gone(lambda: world.owner(world.owner.inference.ModelReady, ask)))


@case(f"{TENANTS}/CreateTenant")
def create_tenant(world: World) -> None:
    wanted = quota.CreateTenantRequest(id=fresh(), display_name="Acme Ltd", tier="gold", metadata={"region": "eu"})
    tenant = world.operator(world.operator.tenants.CreateTenant, wanted).tenant
    assert (tenant.id, tenant.display_name, tenant.tier) == (wanted.id, "Acme Ltd", "gold")
    assert (tenant.status, dict(tenant.metadata)) == (quota.TENANT_STATUS_ACTIVE, {"region": "eu"})


@case(f"{TENANTS}/GetTenant")
def get_tenant(world: World) -> None:
    tenant = world.owner(world.owner.tenants.GetTenant, quota.GetTenantRequest()).tenant
    assert (tenant.id, tenant.tier) == (world.tenant.id, "standard")


@case(f"{TENANTS}/ListTenants")
def list_tenants(world: World) -> None:
    stub = world.operator.tenants
    tenants = paged(lambda page: world.operator(stub.ListTenants, quota.ListTenantsRequest(**page)), "tenants")
    found = [tenant.id for tenant in tenants]
    assert found == sorted(set(found)) and {"community", "default", world.tenant.id} <= set(found)


@case(f"{TENANTS}/UpdateTenant")
def update_tenant(world: World) -> None:
    wanted = quota.UpdateTenantRequest(tenant=quota.Tenant(id=world.operator.tenant().id, tier="gold"))
    wanted.update_mask.paths.append("tier")
    changed = world.operator(world.operator.tenants.UpdateTenant, wanted).tenant
    assert (changed.id, changed.tier) == (wanted.tenant.id, "gold")


@case(f"{TENANTS}/SuspendTenant")
def suspend_tenant(world: World) -> None:
    tenant, stub = world.operator.tenant(), world.operator.tenants
    suspended = world.operator(stub.SuspendTenant, quota.SuspendTenantRequest(id=tenant.id)).tenant
    assert (suspended.id, suspended.status) == (tenant.id, quota.TENANT_STATUS_SUSPENDED)
    until(lambda: not tenant.admin.welcome())


@case(f"{TENANTS}/ResumeTenant")
def resume_tenant(world: World) -> None:
    tenant, stub = world.operator.tenant(), world.operator.tenants
    world.operator(stub.SuspendTenant, quota.SuspendTenantRequest(id=tenant.id))
    until(lambda: not tenant.admin.welcome())
    resumed = world.operator(stub.ResumeTenant, quota.ResumeTenantRequest(id=tenant.id)).tenant
    assert (resumed.id, resumed.status) == (tenant.id, quota.TENANT_STATUS_ACTIVE)
    until(tenant.admin.welcome)


@case(f"{TENANTS}/CreateApiKey")
def create_api_key(world: World) -> None:
    wanted = quota.CreateApiKeyRequest(display_name="for the shop", roles=[quota.ROLE_VIEWER])
    made = world.owner(world.owner.tenants.CreateApiKey, wanted)
    assert (made.api_key.tenant_id, made.api_key.display_name) == (world.tenant.id, "for the shop")
    assert made.key.startswith(made.api_key.prefix) and len(made.key) > 40
    until(Party(world.channel, (("authorization", f"Bearer {made.key}"),)).welcome)


@case(f"{TENANTS}/ListApiKeys")
def list_api_keys(world: World) -> None:
    tenant = world.operator.tenant()
    _, newer = world.operator.key(tenant.id, quota.ROLE_USER)
    stub = tenant.admin.tenants
    keys = paged(lambda page: tenant.admin(stub.ListApiKeys, quota.ListApiKeysRequest(**page)), "api_keys")
    assert [key.id for key in keys] == [newer, tenant.key_id]


@case(f"{TENANTS}/RotateApiKey")
def rotate_api_key(world: World) -> None:
    party, key_id = world.operator.key(world.tenant.id, quota.ROLE_USER)
    wanted = quota.RotateApiKeyRequest(id=key_id)
    wanted.overlap.seconds = 60
    made = world.owner(world.owner.tenants.RotateApiKey, wanted)
    assert made.api_key.id != key_id and list(made.api_key.roles) == [quota.ROLE_USER]
    until(Party(world.channel, (("x-api-key", made.key),)).welcome)
    assert party.welcome(), "the other key works for a minute yet"


@case(f"{TENANTS}/RevokeApiKey")
def revoke_api_key(world: World) -> None:
    party, key_id = world.operator.key(world.tenant.id, quota.ROLE_USER)
    revoked = world.owner(world.owner.tenants.RevokeApiKey, quota.RevokeApiKeyRequest(id=key_id)).api_key
    assert (revoked.id, revoked.HasField("revoke_time")) == (key_id, True)
    until(lambda: not party.welcome())


@case(f"{HEALTH}/Check")
def health_check(world: World) -> None:
    stub: Any = health_pb2_grpc.HealthStub(world.channel)
    for service in ("", *PUBLIC[1:]):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@case(f"{HEALTH}/Watch")
def health_watch(world: World) -> None:
    stub: Any = health_pb2_grpc.HealthStub(world.channel)
    stream = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
    assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
    stream.cancel()


@case(f"{REFLECTION[0]}/ServerReflectionInfo")
def reflection(world: World) -> None:
    assert listed(world, REFLECTION[0]) == sorted(PUBLIC)


@case(f"{REFLECTION[1]}/ServerReflectionInfo")
def older_reflection(world: World) -> None:
    assert listed(world, REFLECTION[1]) == sorted(PUBLIC)


def listed(world: World, reflection_service: str) -> list[str]:
    """The services that reflection shows; the messages of its two versions are the same on the wire."""
    call: Any = world.channel.stream_stream(
        f"/{reflection_service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=60)
    return [service.name for service in answer.list_services_response.service]


def paged(page: Callable[[dict[str, Any]], Any], field: str) -> list[Any]:
    """All rows of a listing, read in pages of two."""
    rows: list[Any] = []
    token = ""
    while True:
        answer = page({"page_size": 2, "page_token": token})
        assert len(getattr(answer, field)) <= 2
        rows += getattr(answer, field)
        token = answer.next_page_token
        if not token:
            return rows


def gone(call: Callable[[], object]) -> bool:
    """Whether the version is known to be archived."""
    try:
        call()
    except grpc.RpcError as error:
        status: Any = error
        return status.code() is grpc.StatusCode.FAILED_PRECONDITION
    return False


def fresh() -> str:
    """A name that nothing else has."""
    return f"name-{secrets.token_hex(6)}"
