"""Triton's repository extension: what tenants see of their models, loading ahead of use, and letting go."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_common import catalogue, wire
from headrace_common.call import Call
from headrace_common.catalogue import CatalogueEntry
from headrace_common.errors import HeadraceError, ModelError, RouteUnavailable
from headrace_common.principal import Principal
from headrace_gateway.model_repository import LOAD_TIMEOUT_S, ModelRepository
from inference import model_repository_pb2 as repository
from support.gateway_core import GatewayCore, Runner

LOADING, LOADED, FAILED, UNLOADED = (
    gateway_pb2.MODEL_STATE_LOADING,
    gateway_pb2.MODEL_STATE_LOADED,
    gateway_pb2.MODEL_STATE_FAILED,
    gateway_pb2.MODEL_STATE_UNLOADED,
)
BROKEN = ModelError("the file is not an ONNX model", entry=catalogue.MODEL_LOAD_FAILED)
LoadRequest, UnloadRequest = repository.RepositoryModelLoadRequest, repository.RepositoryModelUnloadRequest
Request = repository.RepositoryModelLoadRequest | repository.RepositoryModelUnloadRequest


class Stage:
    """A repository over a gateway's inside."""

    def __init__(self) -> None:
        self.core = GatewayCore()
        self.repository = ModelRepository(
            catalog=self.core.catalog, directory=self.core.directory, wants=self.core.wants, clock=self.core.clock
        )

    async def index(self, *, tenant_id: str = "acme", ready: bool = False) -> list[tuple[str, str, str, str]]:
        request = repository.RepositoryIndexRequest(ready=ready)
        answer = await self.repository.RepositoryIndex(request, calling(tenant_id))
        return [(model.name, model.version, model.state, model.reason) for model in answer.models]

    def start(self, request: Request, tenant_id: str = "acme") -> asyncio.Task[bytes]:
        """Begins a load or unload; its result is the serialised answer."""

        async def run() -> bytes:
            if isinstance(request, LoadRequest):
                answer = await self.repository.RepositoryModelLoad(request, calling(tenant_id))
            else:
                answer = await self.repository.RepositoryModelUnload(request, calling(tenant_id))
            return answer.SerializeToString()

        return asyncio.create_task(run())

    async def refused(self, request: Request, entry: CatalogueEntry, tenant_id: str = "acme") -> HeadraceError:
        with pytest.raises(HeadraceError) as caught:
            await self.start(request, tenant_id)
        assert caught.value.entry is entry
        return caught.value


def calling(tenant_id: str) -> Call:
    return Call(
        method="/x",
        metadata={},
        request_id="r",
        trace_id=None,
        deadline_s=None,
        context=cast("Any", None),
        caller=Principal(tenant_id=tenant_id, roles=frozenset({"model_admin"})),
    )


async def kinds(runner: Runner) -> list[str | None]:
    """What a runner was told, after everybody had a turn."""
    await asyncio.sleep(0)
    return [command.WhichOneof("command") for command in runner.commands()]


async def test_index_shows_one_tenants_versions_in_order_with_their_states() -> None:
    stage = Stage()
    runner = stage.core.join()
    for model, number in (("b", 10), ("b", 2), ("a", 1), ("c", 1), ("d", 1)):
        stage.core.register(model, number)
    stage.core.register("secret", tenant_id="other")
    runner.loaded("acme/b/10")
    runner.tell("acme/a/1", LOADING)
    runner.tell("acme/c/1", FAILED, failure=BROKEN)
    assert await stage.index() == [
        ("a", "1", "LOADING", ""),
        ("b", "2", "UNAVAILABLE", "unloaded"),
        ("b", "10", "READY", ""),
        ("c", "1", "UNAVAILABLE", "the file is not an ONNX model"),
        ("d", "1", "UNAVAILABLE", "unloaded"),
    ]
    assert await stage.index(ready=True) == [("b", "10", "READY", "")]
    assert await stage.index(tenant_id="nobody") == []


async def test_index_says_when_no_runner_could_have_a_model() -> None:
    stage = Stage()
    stage.core.register("m")
    assert await stage.index() == [("m", "1", "UNAVAILABLE", "no runner is connected that can run it")]


async def test_load_asks_a_runner_and_answers_when_it_has_the_newest_version() -> None:
    stage = Stage()
    runner = stage.core.join()
    stage.core.register("m", 1)
    uid = stage.core.register("m", 2)
    loading = stage.start(LoadRequest(model_name="m"))
    await asyncio.sleep(0)
    (command,) = runner.commands()
    assert command.want.version.uid == uid
    runner.tell(uid, LOADING)
    await asyncio.sleep(0)
    assert not loading.done()
    runner.loaded(uid)
    await loading
    await stage.start(LoadRequest(model_name="m"))


async def test_load_fails_with_the_runners_reason() -> None:
    stage = Stage()
    runner = stage.core.join()
    uid = stage.core.register("m")
    loading = stage.start(LoadRequest(model_name="m"))
    await asyncio.sleep(0)
    runner.tell(uid, FAILED, failure=BROKEN)
    with pytest.raises(ModelError) as caught:
        await loading
    assert caught.value.entry is catalogue.MODEL_LOAD_FAILED
    assert caught.value.message.endswith("on any runner: the file is not an ONNX model")


async def test_load_tries_again_what_has_failed_before() -> None:
    stage = Stage()
    runner = stage.core.join()
    uid = stage.core.register("m")
    runner.tell(uid, FAILED, failure=RouteUnavailable("away", entry=catalogue.REGISTRY_UNAVAILABLE))
    loading = stage.start(LoadRequest(model_name="m"))
    assert await kinds(runner) == ["release"]
    runner.tell(uid, UNLOADED, released=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert await kinds(runner) == ["want"]
    runner.loaded(uid)
    await loading


async def test_load_of_what_a_runner_has_takes_it_from_nobody_though_another_has_failed() -> None:
    stage = Stage()
    healthy, broken = stage.core.join("runner-0"), stage.core.join("runner-1")
    uid = stage.core.register("m")
    healthy.loaded(uid)
    broken.tell(uid, FAILED, failure=BROKEN)
    await stage.start(LoadRequest(model_name="m"))
    assert [await kinds(runner) for runner in (healthy, broken)] == [[], []]


async def test_load_gives_up_at_its_deadline() -> None:
    stage = Stage()
    runner = stage.core.join()
    uid = stage.core.register("m")
    loading = stage.start(LoadRequest(model_name="m"))
    await asyncio.sleep(0)
    stage.core.clock.advance(LOAD_TIMEOUT_S)
    runner.tell(uid, LOADING)
    with pytest.raises(HeadraceError) as caught:
        await loading
    assert caught.value.entry is catalogue.MODEL_LOAD_TIMEOUT


async def test_unload_answers_once_every_runner_let_every_version_go() -> None:
    stage = Stage()
    first, second = stage.core.join("runner-0"), stage.core.join("runner-1")
    uids = [stage.core.register("m", number) for number in (1, 2)]
    first.loaded(uids[0])
    second.loaded(uids[1])
    unloading = stage.start(UnloadRequest(model_name="m"))
    assert (await kinds(first), await kinds(second)) == (["release"], ["release"])
    first.tell(uids[0], UNLOADED, released=True)
    await asyncio.sleep(0)
    assert not unloading.done()
    second.tell(uids[1], UNLOADED, released=True)
    await unloading
    assert [state for _, _, state, _ in await stage.index()] == ["UNAVAILABLE", "UNAVAILABLE"]


async def test_what_another_gateway_had_unloaded_is_no_answer_to_a_later_unload() -> None:
    stage = Stage()
    runner = stage.core.join()
    uid = stage.core.register("m")
    runner.loaded(uid)
    runner.tell(uid, UNLOADED, released=True)
    runner.loaded(uid)
    unloading = stage.start(UnloadRequest(model_name="m"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not unloading.done()
    runner.tell(uid, UNLOADED, released=True)
    await unloading


async def test_unloading_what_is_not_loaded_succeeds() -> None:
    stage = Stage()
    stage.core.register("m")
    parameter = repository.ModelRepositoryParameter(bool_param=True)
    await stage.start(UnloadRequest(model_name="m", parameters={"unload_dependents": parameter}))


@pytest.mark.parametrize("request_type", [LoadRequest, UnloadRequest])
async def test_kserve_names_the_model_in_field_one_and_reads_its_own_answer(request_type: type[Request]) -> None:
    stage = Stage()
    uid = stage.core.register("m")
    if request_type is LoadRequest:
        stage.core.join().loaded(uid)
    answer = await stage.start(request_type.FromString(wire.encode_len_field(1, b"m")))
    assert answer == wire.encode_len_field(1, b"m") + wire.encode_varint_field(2, 1)


@pytest.mark.parametrize("request_type", [LoadRequest, UnloadRequest])
async def test_what_can_not_be_is_refused(request_type: type[Request]) -> None:
    stage = Stage()
    stage.core.register("m")
    texts = repository.ModelRepositoryParameter(string_param="{}")
    assert (await stage.refused(request_type(), catalogue.FIELD_REQUIRED)).field == "model_name"
    named = request_type(repository_name="r", model_name="m")
    assert (await stage.refused(named, catalogue.FIELD_INVALID)).field == "repository_name"
    await stage.refused(request_type(model_name="absent"), catalogue.MODEL_NOT_FOUND)
    await stage.refused(request_type(model_name="m"), catalogue.MODEL_NOT_FOUND, tenant_id="other")
    for name in ("config", "file:1/model.onnx", "unload_dependents", "whatever"):
        error = await stage.refused(request_type(model_name="m", parameters={name: texts}), catalogue.PARAMETER_INVALID)
        assert (error.field, error.context["parameter"]) == (f"parameters.{name}", name)
