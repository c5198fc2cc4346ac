"""Both clients of the SDK against a real mesh, through every method that a mesh shared with other tests allows."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_client import AsyncClient, Client, HeadraceError, Tensor
from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.datatypes import ALL, DTYPES
from headrace_client.errors import (
    AuthError,
    ModelError,
    QuotaError,
    RunnerError,
    TenantError,
    TensorError,
    ValidationError,
)
from headrace_client.limit_texts import limit_text
from support import onnx_models
from support.mesh import Mesh
from support.parties import until

FILE = onnx_models.identity()
X = np.arange(8, dtype=np.float32).reshape(2, 4)


class Caller:
    """A client of either kind; what asyncio's answers with a coroutine is run to its end."""

    def __init__(self, client: Client | AsyncClient, runner: asyncio.Runner) -> None:
        self._client: Any = client
        self._runner = runner

    def __call__(self, ask: Callable[[Any], Any]) -> Any:
        answer = ask(self._client)
        return self._runner.run(answer) if inspect.iscoroutine(answer) else answer

    def close(self) -> None:
        self(lambda client: client.close())


@dataclass(frozen=True, kw_only=True)
class World:
    """An operator, and the admin of a tenant that is this test's own."""

    operator: Caller
    admin: Caller
    tenant: str
    connect: Callable[[str], Caller]

    def refusal(self, caller: Caller, ask: Callable[[Any], Any]) -> HeadraceError:
        with pytest.raises(HeadraceError) as caught:
            caller(ask)
        return caught.value


def known(caller: Caller) -> bool:
    """Whether the gateway has heard of the caller's key."""
    try:
        caller(lambda client: client.models.list())
    except AuthError:
        return False
    return True


@pytest.fixture(scope="module", params=[Client, AsyncClient], ids=["sync", "async"])
def world(mesh: Mesh, request: pytest.FixtureRequest) -> Iterator[World]:
    kind: type[Client | AsyncClient] = request.param
    opened: list[Caller] = []
    with asyncio.Runner() as runner:

        def connect(api_key: str) -> Caller:
            opened.append(Caller(kind(mesh.grpc, api_key=api_key), runner))
            return opened[-1]

        operator = connect(f"@{mesh.state_dir / 'secrets' / 'admin.key'}")
        tenant = f"sdk-{secrets.token_hex(4)}"
        operator(lambda client: client.tenants.create(tenant, display_name="SDK", metadata={"of": "tests"}))
        admin = connect(operator(lambda client: client.keys.create(tenant=tenant, roles=["admin"])).key)
        until(lambda: known(admin))
        yield World(operator=operator, admin=admin, tenant=tenant, connect=connect)
        for caller in opened:
            caller.close()


def samples(datatype: str) -> Any:
    """Values at the edges of a datatype, two rows of four."""
    if datatype == "BYTES":
        return np.array([[b"", b"\0", b"a\0b", b"\x7f"], ["☃".encode(), b"x" * 300, b"z", b"\0\0"]], dtype=object)
    if datatype == "BOOL":
        return np.array([[True, False, True, True], [False, False, True, False]])
    if datatype == "BF16":
        return np.array([[0.0, -0.0, 1.5, -2.5], [np.inf, -np.inf, 2.0**127, np.nan]], np.float32)
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        values = [0.0, -0.0, limits.max, limits.smallest_subnormal, np.inf, -np.inf, np.nan, limits.eps]
        return np.array(values, dtype).reshape(2, 4)
    bounds = np.iinfo(dtype)
    return np.array([bounds.min, bounds.max, 0, 1, 2, 3, 4, 5], dtype).reshape(2, 4)


@pytest.mark.parametrize("datatype", ALL)
def test_every_datatype_comes_back_bit_for_bit(datatype: str, world: World) -> None:
    name, sent = f"identity-{datatype.lower()}", samples(datatype)
    world.admin(lambda client: client.models.push(onnx_models.identity(datatype), name=name))
    value = Tensor(sent, "BF16") if datatype == "BF16" else sent
    result = world.admin(lambda client: client.infer(name, {"x": value}, request_id="r-1"))
    assert (result.model, result.version, result.id, result.datatypes) == (name, "1", "r-1", {"z": datatype})
    assert result.execution.backend == "onnxruntime"
    assert result.execution.compute_s > 0
    got = result["z"]
    assert (got.shape, got.dtype) == (sent.shape, sent.dtype)
    if datatype == "BYTES":
        assert got.tolist() == sent.tolist()
    elif datatype == "BF16":
        np.testing.assert_array_equal(got, sent)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(sent))
    else:
        assert got.tobytes() == sent.tobytes()


def test_a_model_lives_from_push_to_archive(world: World, tmp_path: Path) -> None:
    ask, heard = world.admin, list[tuple[int, int]]()
    file = tmp_path / "life.onnx"
    file.write_bytes(FILE)
    manifest = {"description": "one", "classLabels": ["a", "b"]}
    first = ask(
        lambda client: client.models.push(
            file, name="life", manifest=manifest, progress=lambda *moved: heard.append(moved)
        )
    )
    again = ask(lambda client: client.models.push(FILE, name="life", manifest=manifest, file_name="life.onnx"))
    second = ask(lambda client: client.models.push(FILE + b"\n"[:0], name="life", version=2, file_name="life.onnx"))
    assert [version.version for version in (first, again, second)] == [1, 1, 2]
    assert heard[-1] == (len(FILE), len(FILE))
    assert list(first.manifest.class_labels) == ["a", "b"]
    ask(lambda client: client.models.create("empty", description="no version", metadata={"a": "b"}))
    assert {model.name: model.latest_version for model in ask(lambda client: client.models.list())}.items() >= {
        "empty": 0,
        "life": 2,
    }.items()
    assert ask(lambda client: client.models.get("empty")).metadata == {"a": "b"}
    assert [version.version for version in ask(lambda client: client.models.versions("life"))] == [2, 1]
    assert ask(lambda client: client.models.version("life", 1)).manifest.description == "one"
    assert ask(lambda client: client.models.version("life")).version == 2
    ask(lambda client: client.models.load("life"))
    assert ask(lambda client: client.models.ready("life", 2))
    assert ask(lambda client: client.models.metadata("life")).inputs[0].name == "x"
    assert ask(lambda client: client.config("life")).input[0].name == "x"
    for version in ("", 1):
        result = ask(lambda client, version=version: client.infer("life", {"x": X}, version=version, outputs=["z"]))
        np.testing.assert_array_equal(result["z"], X)
    counted = {
        stats.version: stats.inference_stats.success.count for stats in ask(lambda client: client.statistics("life"))
    }
    assert counted["1"] >= 1
    assert {(model.name, model.version) for model in ask(lambda client: client.models.index())} >= {("life", "2")}
    path = ask(lambda client: client.models.download("life", tmp_path / "got.onnx", version=1))
    assert path.read_bytes() == FILE
    ask(lambda client: client.models.unload("life"))
    assert ask(lambda client: client.models.archive("life", 1)).state == models_pb2.VERSION_STATE_ARCHIVED

    def refused() -> bool:
        try:
            ask(lambda client: client.infer("life", {"x": X}, version=1))
        except ModelError:
            return True
        return False

    until(refused)


def test_what_the_mesh_refuses_has_its_type_and_can_be_found_in_the_logs(world: World) -> None:
    world.admin(lambda client: client.models.push(FILE, name="strict"))
    unknown = world.refusal(world.admin, lambda client: client.infer("nobody", {"x": X}, request_id="find-me"))
    assert (type(unknown), unknown.reason, unknown.request_id) == (ModelError, "MODEL_NOT_FOUND", "find-me")
    assert "nobody" in unknown.message
    for inputs, reason in (
        ({"x": X[:, :3]}, "TENSOR_SHAPE_MISMATCH"),
        ({"x": X.astype(np.float64)}, "TENSOR_DATATYPE_MISMATCH"),
        ({"x": X, "w": X}, "TENSOR_NAME_UNKNOWN"),
        ({}, "TENSOR_MISSING"),
        ({"x": np.array([object()])}, "TENSOR_ELEMENT_INVALID"),
    ):
        refused = world.refusal(world.admin, lambda client, inputs=inputs: client.infer("strict", inputs))
        assert (type(refused), refused.reason) == (TensorError, reason)
    conflict = world.refusal(
        world.admin, lambda client: client.models.push(onnx_models.add(), name="strict", version=1)
    )
    assert (type(conflict), conflict.reason) == (ModelError, "MODEL_VERSION_CONFLICT")
    stranger = world.refusal(world.connect("no-such-key"), lambda client: client.models.list())
    assert isinstance(stranger, AuthError)


def test_tenants_and_keys_are_made_used_and_ended(world: World) -> None:
    operator, tenant = world.operator, f"{world.tenant}-b"
    operator(lambda client: client.tenants.create(tenant))
    assert operator(lambda client: client.tenants.get(tenant)).id == tenant
    assert {made.id for made in operator(lambda client: client.tenants.list())} >= {tenant, world.tenant}
    assert world.admin(lambda client: client.tenants.get()).id == world.tenant
    made = operator(lambda client: client.keys.create(tenant=tenant, display_name="k", roles=["viewer"]))
    viewer = world.connect(made.key)
    until(lambda: known(viewer))
    forbidden = world.refusal(viewer, lambda client: client.models.push(FILE, name="m"))
    assert (type(forbidden), forbidden.reason) == (AuthError, "ROLE_FORBIDDEN")
    assert [key.display_name for key in operator(lambda client: client.keys.list(tenant))] == ["k"]

    def reason() -> str:
        try:
            viewer(lambda client: client.models.list())
        except (AuthError, TenantError, QuotaError) as failure:
            return failure.reason
        return ""

    operator(lambda client: client.tenants.suspend(tenant))
    until(lambda: reason() == "TENANT_SUSPENDED")
    operator(lambda client: client.tenants.resume(tenant))
    until(lambda: reason() == "")
    operator(lambda client: client.keys.revoke(made.api_key.id))
    until(lambda: reason() in {"KEY_REVOKED", "CREDENTIAL_UNKNOWN"})


def test_limits_are_set_and_read(world: World) -> None:
    operator, tenant = world.operator, world.tenant
    texts = ["requests=1000000/day", "tokens=5000/10s,burst=9000", "concurrency=1000"]
    stored = operator(lambda client: client.quotas.set_limits(tenant, texts))
    assert sorted(limit_text(limit) for limit in stored) == sorted(texts)
    held = world.admin(lambda client: client.quotas.limits())
    assert (list(held.limits), held.plan) == (stored, "standard")
    assert len(world.admin(lambda client: client.quotas.usage())) == 3
    assert operator(lambda client: client.quotas.reset(tenant, resource="requests", window="day")) == 1
    assert operator(lambda client: client.quotas.statistics(5)).tenants_limited >= 1
    assert operator(lambda client: client.quotas.set_limits(tenant, [])) == []
    unknown = world.refusal(operator, lambda client: client.quotas.reset(tenant, resource="seats"))
    assert isinstance(unknown, ValidationError)
    plan = f"{tenant}-plan"
    made = operator(lambda client: client.quotas.set_plan(plan, texts, aggregate_streams=True))
    assert operator(lambda client: client.quotas.plan(plan)) == made
    assert made in operator(lambda client: client.quotas.plans())
    operator(lambda client: client.quotas.delete_plan(plan))
    gone = world.refusal(operator, lambda client: client.quotas.plan(plan))
    assert (type(gone), gone.reason) == (QuotaError, "PLAN_NOT_FOUND")


def test_server_and_runners_answer(world: World) -> None:
    assert world.admin(lambda client: client.server.live())
    assert world.admin(lambda client: client.server.ready())
    assert world.admin(lambda client: client.server.metadata()).name == "headrace"
    runners = world.operator(lambda client: client.runners.list()).runners
    assert {runner.state for runner in runners} == {mesh_pb2.RUNNER_STATE_READY}
    absent = world.refusal(world.operator, lambda client: client.runners.drain("nobody"))
    assert (type(absent), absent.reason) == (RunnerError, "RUNNER_NOT_FOUND")

    def first(client: Client | AsyncClient) -> Any:
        if isinstance(client, Client):
            with_close = client.runners.watch()
            try:
                return next(with_close)
            finally:
                with_close.close()

        async def watched() -> Any:
            changes = client.runners.watch()
            try:
                return await anext(changes)
            finally:
                await changes.aclose()

        return watched()

    assert world.operator(first).runner.id in {runner.id for runner in runners}
