"""Whatever is wrong with a request has a code of its own, and harms nothing: one table, through the whole mesh."""

from __future__ import annotations

import hashlib
import re
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.gateway.v1 import generation_pb2
from headrace.gateway.v1 import inference_pb2 as pb
from headrace.quota.v1 import tenants_pb2 as quota
from headrace.registry.v1 import models_pb2 as registry
from headrace.registry.v1.manifest_pb2 import LanguagePolicy, Manifest
from inference import model_repository_pb2 as repository
from inference import model_statistics_pb2 as statistics
from inference import open_inference_pb2 as oip
from support.bad_administration import FIELDS, PAGES, UPLOADS
from support.bad_calls import SUM, SUM_FILE, Case, World, infer, tensor
from support.bad_extensions import EXTENSIONS, loading, streaming
from support.bad_generation import CONTEXT, GENERATIONS, SLOTS, TOY, generate, good
from support.bad_inference import PACKED_INFERENCES, only_answer, only_result
from support.bad_requests import CALLERS, INFERENCES, MESSAGES
from support.generation import text_of
from support.mesh import Mesh
from support.parties import Party, operator, until
from support.refusals import Refusal, refusal, refusal_of
from support.toy_language import WORD_BYTES, toy_language_model

pytestmark = pytest.mark.timeout(240)

_UNDER_WAY = re.compile(r"^(\w+(?:in_flight|in_progress|queue_depth))(\{.*\})? (\S+)$", re.MULTILINE)

CASES = INFERENCES | EXTENSIONS | PACKED_INFERENCES | GENERATIONS | MESSAGES | CALLERS | UPLOADS | FIELDS | PAGES


@pytest.fixture(scope="module")
def world(mesh: Mesh) -> Iterator[World]:
    with grpc.insecure_channel(mesh.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
        admin = operator(mesh, channel)
        acme, gone, neighbour = admin.tenant(), admin.tenant(), admin.tenant()
        viewer, _ = admin.key(acme.id, quota.ROLE_VIEWER)
        revoked, revoked_id = admin.key(acme.id, quota.ROLE_ADMIN)
        admin(admin.tenants.RevokeApiKey, quota.RevokeApiKeyRequest(id=revoked_id))
        admin(admin.tenants.SuspendTenant, quota.SuspendTenantRequest(id=gone.id))
        until(lambda: not revoked.welcome() and not gone.admin.welcome())
        acme.admin.push(SUM, SUM_FILE)
        language = LanguagePolicy(slots=SLOTS, context_length=CONTEXT)
        acme.admin.push(TOY, toy_language_model(), manifest=Manifest(language=language))
        yield World(
            acme=acme.admin,
            acme_tenant=acme,
            viewer=viewer,
            nobody=Party(channel, ()),
            revoked=revoked,
            suspended=gone.admin,
            operator=admin,
            neighbour=neighbour.admin,
        )


def answered(case: Case, world: World) -> Refusal:
    """Sends the call and checks everything that its answer says."""
    refused = refusal_of(lambda: case.send(world))
    assert (refused.reason, refused.code.name) == (case.entry.reason, case.entry.grpc), refused
    assert refused.context["code"] == case.entry.code
    assert set(case.entry.context) <= set(refused.context), refused.context
    assert refused.field == case.field, refused
    for said in (*case.says, *([case.field] if case.field and "[" not in case.field else [])):
        assert said in refused.message, refused
    assert refused.message and not refused.leaks(), refused
    return refused


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_is_refused_with_its_code_its_field_its_limit_and_no_text_of_a_library(case: Case, world: World) -> None:
    answered(case, world)


STRANGE = {
    "no rows": np.zeros((0, 4), np.float32),
    "no numbers": np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32),
    "the ends of the range": np.array([[3.4028235e38, 1e-45, -3.4028235e38, 1.1754944e-38]], np.float32),
}


@pytest.mark.parametrize("x", STRANGE.values(), ids=STRANGE.keys())
def test_strange_elements_are_computed_with_like_others(x: NDArray[np.float32], world: World) -> None:
    y = np.zeros_like(x)
    inputs = (tensor("x", x.shape), tensor("y", y.shape))
    answer = world.acme.infer(infer(*inputs, raw=(x.tobytes(), y.tobytes())))
    assert list(answer.outputs[0].shape) == list(x.shape)
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32), (x + y).reshape(-1))


ABOUT_A_MODEL: dict[str, Callable[[Party, str], object]] = {
    "ModelInfer": lambda party, name: party.infer(infer(model_name=name)),
    "ModelInfer of a version": lambda party, name: party.infer(infer(model_name=name, model_version="1")),
    "Infer": lambda party, name: party(party.packed.Infer, pb.InferRequest(request=infer(model_name=name))),
    "Generate": lambda party, name: generate(party, generation_pb2.GenerateRequest(model_name=name, text="x")),
    "ModelReady": lambda party, name: party(party.inference.ModelReady, oip.ModelReadyRequest(name=name)),
    "ModelMetadata": lambda party, name: party(party.inference.ModelMetadata, oip.ModelMetadataRequest(name=name)),
    "ModelStreamInfer": lambda party, name: streaming(party, infer(model_name=name)),
    "ModelConfig": lambda party, name: party(party.inference.ModelConfig, oip.ModelConfigRequest(name=name)),
    "ModelStatistics": lambda party, name: party(
        party.inference.ModelStatistics, statistics.ModelStatisticsRequest(name=name)
    ),
    "RepositoryModelLoad": lambda party, name: party(party.inference.RepositoryModelLoad, loading(model_name=name)),
    "RepositoryModelUnload": lambda party, name: party(
        party.inference.RepositoryModelUnload, repository.RepositoryModelUnloadRequest(model_name=name)
    ),
    "GetModel": lambda party, name: party(party.models.GetModel, registry.GetModelRequest(name=name)),
    "GetVersion": lambda party, name: party(party.models.GetVersion, registry.GetVersionRequest(model=name, version=1)),
    "ListVersions": lambda party, name: party(party.models.ListVersions, registry.ListVersionsRequest(model=name)),
    "DownloadVersion": lambda party, name: party(
        party.models.DownloadVersion, registry.DownloadVersionRequest(model=name, version=1)
    ),
    "ArchiveVersion": lambda party, name: party(
        party.models.ArchiveVersion, registry.ArchiveVersionRequest(model=name, version=1)
    ),
}


@pytest.mark.parametrize("ask", ABOUT_A_MODEL.values(), ids=ABOUT_A_MODEL.keys())
def test_foreign_model_is_answered_byte_for_byte_as_one_that_is_not_there(
    ask: Callable[[Party, str], object], world: World
) -> None:
    absent = "nil"
    assert len(absent) == len(SUM)
    if ask not in (ABOUT_A_MODEL["ArchiveVersion"], ABOUT_A_MODEL["Generate"]):
        ask(world.acme, SUM)
    foreign, missing = (refusal_of(lambda name=name: ask(world.neighbour, name)) for name in (SUM, absent))
    assert foreign.reason == "MODEL_NOT_FOUND"
    assert (foreign.code, foreign.message.replace(SUM, absent)) == (missing.code, missing.message)
    assert [(key, renamed(value, SUM, absent)) for key, value in foreign.trailing] == list(missing.trailing)


def test_foreign_model_in_a_batch_or_on_a_stream_is_answered_byte_for_byte_as_one_that_is_not_there(
    world: World,
) -> None:
    absent = "nil"

    def answers(party: Party, name: str) -> list[bytes]:
        request = pb.InferRequest(request=infer(model_name=name))
        call = pb.StreamCall(id=7, infer=request)
        return [status.SerializeToString() for status in (only_result(party, request), only_answer(party, call))]

    told = Party(world.neighbour.channel, (*world.neighbour.metadata, ("x-request-id", "the-same")))
    foreign, missing = (answers(told, name) for name in (SUM, absent))
    assert [answer.replace(SUM.encode(), absent.encode()) for answer in foreign] == missing
    assert b"MODEL_NOT_FOUND" in missing[0]


def renamed(value: str | bytes, old: str, new: str) -> str | bytes:
    return value.replace(old.encode(), new.encode()) if isinstance(value, bytes) else value.replace(old, new)


def test_foreign_tenant_is_answered_as_one_that_is_not_there(world: World) -> None:
    absent = "x" * len(world.acme_tenant.id)
    for method, request in (
        ("GetTenant", lambda id_: quota.GetTenantRequest(id=id_)),
        ("SuspendTenant", lambda id_: quota.SuspendTenantRequest(id=id_)),
        ("ListApiKeys", lambda id_: quota.ListApiKeysRequest(tenant_id=id_)),
        ("CreateApiKey", lambda id_: quota.CreateApiKeyRequest(tenant_id=id_)),
    ):
        call = getattr(world.neighbour.tenants, method)
        foreign, missing = (
            refusal_of(lambda call=call, request=request, id_=id_: world.neighbour(call, request(id_)))
            for id_ in (world.acme_tenant.id, absent)
        )
        assert foreign.reason == missing.reason == "TENANT_NOT_FOUND"
        assert foreign.message.replace(world.acme_tenant.id, absent) == missing.message
        assert [renamed(value, world.acme_tenant.id, absent) for _, value in foreign.trailing] == [
            value for _, value in missing.trailing
        ]


def test_deadline_that_is_already_over_is_told_from_one_that_passes(world: World) -> None:
    """A client without a clock of its own sends its deadline as plain metadata, so only the mesh can end the call."""
    told: set[str] = set()
    for attempt in range(500):
        metadata = (*world.acme.metadata, ("grpc-timeout", f"{1 + attempt % 20 * 100}u"))
        try:
            world.acme.inference.ModelInfer(infer(), metadata=metadata)
        except grpc.RpcError as error:
            refused = refusal(error)
            assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
            # Where the transport itself sees the deadline pass first, there are no details.
            assert refused.reason in {"DEADLINE_ALREADY_OVER", "DEADLINE_UNREACHABLE", "INFERENCE_TIMEOUT", ""}
            told.add(refused.reason)
            if refused.reason:
                assert refused.context["code"] in {"TIMEOUT_001", "TIMEOUT_002", "TIMEOUT_007"}
                assert not refused.leaks()
        if "DEADLINE_ALREADY_OVER" in told and told & {"DEADLINE_UNREACHABLE", "INFERENCE_TIMEOUT", ""}:
            return
    pytest.fail(f"only {told}")


def test_all_of_it_at_once_harms_nothing(mesh: Mesh, world: World) -> None:
    before = (mesh.current_processes(), registered(world), stored(mesh))
    # No more at once than uploads of one tenant.
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done in [pool.submit(answered, case, world) for case in CASES.values()]:
            done.result()
    answer = world.acme.infer(infer())
    assert [output.name for output in answer.outputs] == ["z"]
    assert len(text_of(generate(world.acme, good()))) == 2 * WORD_BYTES
    assert (mesh.current_processes(), registered(world), stored(mesh)) == before
    assert refusal_of(
        lambda: world.acme(world.acme.models.GetModel, registry.GetModelRequest(name="broken"))
    ).reason == ("MODEL_NOT_FOUND")
    until(lambda: not half_received(mesh))
    until(lambda: not in_flight(mesh))


def registered(world: World) -> tuple[Any, ...]:
    """What the tenants of the table see of models and versions."""
    acme = world.acme
    listed = [
        list(party(party.models.ListModels, registry.ListModelsRequest()).models)
        for party in (acme, world.neighbour, world.operator)
    ]
    versions = acme(acme.models.ListVersions, registry.ListVersionsRequest(model=SUM)).versions
    assert ([model.name for model in listed[0]], [version.version for version in versions]) == ([SUM, TOY], [1])
    return listed, list(versions)


def stored(mesh: Mesh) -> set[str]:
    """Names of the stored segments, each of which must hold exactly the bytes that it is named for."""
    segments = {path.name: path for path in (mesh.state_dir / "storage").rglob("*") if path.is_file()}
    for name, path in segments.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    return set(segments)


def half_received(mesh: Mesh) -> list[str]:
    """Files of uploads that the registry still keeps."""
    folder = mesh.state_dir / "services" / "registry" / "uploads"
    return [path.name for path in folder.glob("*/*")]


def in_flight(mesh: Mesh) -> list[str]:
    """Metrics that count something under way; the feeds that gateways follow always are."""
    busy: list[str] = []
    for process in mesh.current_processes().values():
        if process.metrics is None:
            continue
        with urllib.request.urlopen(process.metrics, timeout=20) as page:  # noqa: S310 - loopback
            gauges = _UNDER_WAY.findall(page.read().decode())
        assert gauges, process.name
        for name, labels, value in gauges:
            if float(value) and "internal.v1" not in labels:
                busy.append(f"{process.name}: {name}{labels} {value}")
    return busy
