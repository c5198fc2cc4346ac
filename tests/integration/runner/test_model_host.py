"""Models loaded on wants from a real ArtifactService, and calls on them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest

from headrace.gateway.v1.mesh_pb2 import ModelState
from headrace.registry.v1.manifest_pb2 import ArtifactFormat, Manifest, TensorSpec
from headrace.registry.v1.models_pb2 import Version
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.testing import FakeClock
from headrace_runner.calls import Answer
from inference import open_inference_pb2 as pb
from support import onnx_models
from support.artifacts import version_of
from support.eventually import eventually
from support.gate import Gate
from support.runner import TENANT, RunnerUnderTest, failure_of, outputs_of, request_of, running_host

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
STEPS = 3
UNLOADED = ModelState.MODEL_STATE_UNLOADED


async def test_a_wanted_model_is_fetched_loaded_and_answers(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("double", onnx_models.add())
        assert runner.states(version.uid) == ["LOADING", "LOADED"]
        assert runner.events[-1].memory_bytes > 0
        assert runner.events[-1].execution_slots == 1
        assert runner.host.model_events() == [runner.events[-1]]
        payload = request_of({"x": ROWS, "y": ROWS}, request_id="my-id")
        answer = await runner.answer(runner.call(version, payload))
        response = pb.ModelInferResponse.FromString(bytes(answer.payload))
        assert (response.model_name, response.model_version, response.id) == ("double", "1", "my-id")
        assert np.array_equal(outputs_of(answer.payload)["z"], 2 * ROWS)
        assert answer.compute_us > 0
        labels = {"tenant": TENANT, "model": "double", "version": "1"}
        assert runner.metric("calls_total", **labels, outcome="ok") == 1
        assert runner.metric("models_loaded") == 1
        assert runner.host.load().model_memory_bytes == runner.events[-1].memory_bytes


async def test_typed_and_raw_contents_give_the_same_answer(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("m", onnx_models.identity())
        typed = pb.ModelInferRequest()
        tensor = typed.inputs.add(name="x", datatype="FP32", shape=ROWS.shape)
        tensor.contents.fp32_contents.extend(ROWS.reshape(-1).tolist())
        answer = await runner.answer(runner.call(version, typed.SerializeToString()))
        assert np.array_equal(outputs_of(answer.payload)["z"], (await runner.infer(version, x=ROWS))["z"])


async def test_many_wants_at_once_load_a_model_once(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        content = onnx_models.identity()
        runner.artifacts.files["model.onnx"] = content
        version = version_of("m", {"model.onnx": content})
        for _ in range(20):
            runner.want(version)
        await runner.settled(version.uid)
        assert runner.states(version.uid) == ["LOADING", "LOADED"]
        assert len(runner.artifacts.read) == 1


async def test_a_want_for_a_loaded_model_tells_again_that_it_is_loaded(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("m", onnx_models.identity())
        told = runner.events[-1]
        runner.want(version)
        assert runner.states(version.uid) == ["LOADING", "LOADED", "LOADED"]
        assert runner.events[-1] == told


async def test_a_model_that_is_not_loaded_or_foreign_is_refused(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        absent = version_of("absent", {"model.onnx": b""})
        error = await failure_of(runner.answer(runner.call(absent, b"")))
        assert (error.entry, error.retryable) == (catalogue.MODEL_LOADING, True)
        version = await runner.load("m", onnx_models.identity())
        payload = request_of({"x": ROWS})
        error = await failure_of(runner.answer(runner.call(version, payload, tenant_id="other")))
        assert error.entry is catalogue.MODEL_NOT_FOUND


async def test_a_call_whose_deadline_is_over_is_not_executed(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("m", onnx_models.identity())
        error = await failure_of(runner.answer(runner.call(version, request_of({"x": ROWS}), timeout_s=0)))
        assert error.entry is catalogue.DEADLINE_ALREADY_OVER


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (b"this is not a model", catalogue.MODEL_LOAD_FAILED),
        (onnx_models.identity()[:40], catalogue.MODEL_LOAD_FAILED),
        (onnx_models.unknown_operator(), catalogue.MODEL_LOAD_FAILED),
        (onnx_models.with_external_data("../../outside.bin"), catalogue.MODEL_LOAD_FAILED),
        (onnx_models.identities(["BF16", "BYTES"]), catalogue.MODEL_LOAD_FAILED),
    ],
)
async def test_a_file_that_cannot_be_loaded_fails_with_our_words(
    tmp_path: Path, content: bytes, entry: catalogue.CatalogueEntry
) -> None:
    async with running_host(tmp_path) as runner:
        with pytest.raises(HeadraceError) as caught:
            await runner.load("broken", content)
        assert caught.value.entry is entry
        assert caught.value.context["model"] == "broken"
        for foreign in ("ONNXRuntimeError", "/", "Error", "protobuf"):
            assert foreign not in caught.value.message
        assert runner.host.model_events() == [runner.events[-1]], "a gateway that comes later hears of the failure too"
        assert runner.metric("loads_total", outcome="failed") == 1


async def test_a_failed_model_is_tried_again_after_a_pause_and_told_again_before(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock) as runner:
        content = onnx_models.identity()
        version = version_of("m", {"model.onnx": content})
        runner.artifacts.files["model.onnx"] = content
        runner.want(version, ticket="wrong")
        with pytest.raises(HeadraceError) as caught:
            await runner.settled(version.uid)
        assert caught.value.entry is catalogue.TICKET_INVALID
        runner.want(version)
        assert runner.states(version.uid) == ["LOADING", "FAILED", "FAILED"]
        clock.advance(5.0)
        runner.want(version)
        await runner.settled(version.uid)
        assert runner.states(version.uid)[-2:] == ["LOADING", "LOADED"]


async def test_a_passing_failure_says_when_to_retry_and_is_tried_again_soon(tmp_path: Path) -> None:
    clock = FakeClock()
    size = 8 << 20
    async with running_host(tmp_path, clock=clock, model_memory_bytes_max=12 * size) as runner:
        wanted = [await runner.load("m0", onnx_models.weighty(size))]
        with pytest.raises(HeadraceError) as caught:
            while True:
                wanted.append(await runner.load(f"m{len(wanted)}", onnx_models.weighty(size)))
        assert caught.value.entry is catalogue.DEVICE_OUT_OF_MEMORY
        assert caught.value.retry_after_s == 1.0
        failed = next(event.version_uid for event in reversed(runner.events))
        for version in wanted:
            runner.want(version, ttl_s=0)
        clock.advance(1.0)
        await runner.load(f"m{len(wanted)}", onnx_models.weighty(size))
        assert runner.states(failed) == ["LOADING", "FAILED", "LOADING", "LOADED"]


async def test_a_manifest_that_contradicts_the_model_is_refused(tmp_path: Path) -> None:
    def manifest(name: str, datatype: str, shape: list[int]) -> Manifest:
        spec = TensorSpec(name=name, datatype=datatype, shape=shape)
        return Manifest(format=ArtifactFormat.ARTIFACT_FORMAT_ONNX, inputs=[spec])

    content = onnx_models.identity()
    async with running_host(tmp_path) as runner:
        runner.artifacts.files["model.onnx"] = content
        for number, contradiction in enumerate(
            [manifest("w", "FP32", [-1, 4]), manifest("x", "FP64", [-1, 4]), manifest("x", "FP32", [4])]
        ):
            version = version_of(f"m{number}", {"model.onnx": content}, manifest=contradiction)
            runner.want(version)
            with pytest.raises(HeadraceError) as caught:
                await runner.settled(version.uid)
            assert caught.value.entry is catalogue.MODEL_MANIFEST_MISMATCH


async def test_a_missing_backend_is_named_before_anything_is_fetched(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = version_of("m", {"model.onnx": b"x"}, manifest=Manifest(backend="abacus"))
        runner.want(version)
        with pytest.raises(HeadraceError) as caught:
            await runner.settled(version.uid)
        assert caught.value.entry is catalogue.BACKEND_MISSING
        assert "abacus" in caught.value.message
        assert runner.artifacts.read == []


async def test_the_least_recently_used_model_makes_room_and_wanted_ones_stay(tmp_path: Path) -> None:
    clock = FakeClock()
    # What models take is measured while other threads allocate too: so much room that only many loads fill it.
    size = 8 << 20
    room = 30 * size
    small, content = onnx_models.identity(), onnx_models.weighty(size)
    async with running_host(tmp_path, clock=clock, model_memory_bytes_max=room) as runner:
        wanted = await runner.load("wanted", small)
        used, unused = [await loaded(runner, name, small) for name in ("used", "unused")]
        clock.advance(1)
        await runner.infer(used, x=ROWS)
        number = 0
        while not (gone := [event.version_uid for event in runner.events if event.state == UNLOADED]):
            clock.advance(2)
            await loaded(runner, f"model-{number}", content)
            number += 1
        assert gone[0] == unused.uid, "the other one was used later"
        assert runner.states(wanted.uid) == ["LOADING", "LOADED"]
        assert runner.host.load().model_memory_bytes <= room
        assert runner.metric("evictions_total", cache="memory", reason="space") == len(gone)


async def loaded(runner: RunnerUnderTest, model: str, content: bytes) -> Version:
    """Loads a model that nobody wants any more."""
    version = await runner.load(model, content)
    runner.want(version, ttl_s=0)
    return version


async def test_a_model_that_can_never_fit_is_refused(tmp_path: Path) -> None:
    async with running_host(tmp_path, model_memory_bytes_max=1 << 20) as runner:
        with pytest.raises(HeadraceError) as caught:
            await runner.load("large", onnx_models.weighty(2 << 20))
        assert caught.value.entry is catalogue.MODEL_TOO_LARGE_TO_LOAD


async def test_an_idle_model_is_unloaded_and_comes_back_on_a_want(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock, model_idle_max_s=100.0) as runner:
        version = await loaded(runner, "m", onnx_models.identity())
        clock.advance(60)
        await runner.infer(version, x=ROWS)
        clock.advance(60)
        runner.host.sweep()
        assert runner.states(version.uid)[-1] == "LOADED"
        clock.advance(60)
        runner.host.sweep()
        await eventually(lambda: runner.states(version.uid)[-1] == "UNLOADED")
        assert runner.host.model_events() == []
        assert TENANT not in generate_latest(runner.metrics.registry).decode(), "its metrics have left with it"
        runner.want(version)
        await runner.settled(version.uid)
        assert np.array_equal((await runner.infer(version, x=ROWS))["z"], ROWS)
        assert len(runner.artifacts.read) == 1, "the disk cache still has it"


async def test_a_model_in_use_is_not_unloaded(tmp_path: Path, gate: Gate) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock, execution_timeout_s=20_000) as runner:
        version = await loaded(runner, "slow", onnx_models.counting_loop())
        payload = request_of({"x": np.array(0, np.int64), "y": np.array(STEPS, np.int64)})
        gate.shut()
        call = asyncio.create_task(runner.answer(runner.call(version, payload, timeout_s=20_000)))
        await eventually(lambda: runner.metric("executing") == 1)
        clock.advance(10_000)
        runner.host.sweep()
        assert runner.states(version.uid)[-1] == "LOADED"
        gate.open()
        assert outputs_of((await call).payload)["z"] == STEPS


async def test_a_released_model_finishes_its_calls_takes_no_more_and_comes_back_on_a_want(
    tmp_path: Path, gate: Gate
) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        payload = request_of({"x": np.array(0, np.int64), "y": np.array(STEPS, np.int64)})
        gate.shut()
        call = asyncio.create_task(runner.answer(runner.call(version, payload)))
        await eventually(lambda: runner.metric("executing") == 1)
        runner.host.release(version.uid)
        await eventually(lambda: runner.states(version.uid)[-1] == "UNLOADED")
        assert runner.events[-1].released
        error = await failure_of(runner.answer(runner.call(version, payload)))
        assert error.entry is catalogue.MODEL_LOADING
        gate.open()
        assert outputs_of((await call).payload)["z"] == STEPS
        runner.want(version)
        await runner.settled(version.uid)
        assert runner.states(version.uid) == ["LOADING", "LOADED", "UNLOADED", "LOADING", "LOADED"]
        assert runner.metric("evictions_total", cache="memory", reason="released") == 1


async def test_a_model_released_while_it_loads_leaves_when_it_has_loaded_unless_it_is_wanted_again(
    tmp_path: Path,
) -> None:
    async with running_host(tmp_path) as runner:
        content = onnx_models.identity()
        runner.artifacts.files["model.onnx"] = content
        left, kept = (version_of(name, {"model.onnx": content}) for name in ("left", "kept"))
        runner.want(left)
        runner.want(kept)
        runner.host.release(left.uid)
        runner.host.release(kept.uid)
        assert [event.released for event in runner.events[-2:]] == [True, True], "whoever asked is answered at once"
        runner.want(kept)
        await eventually(lambda: len(runner.states(left.uid)) == 3 and len(runner.states(kept.uid)) == 4)
        assert runner.states(left.uid) == ["LOADING", "UNLOADED", "UNLOADED"], "nobody is told to call it meanwhile"
        assert [event.released for event in runner.events if event.version_uid == left.uid] == [False, True, False]
        assert runner.states(kept.uid) == ["LOADING", "UNLOADED", "LOADING", "LOADED"]
        assert [event.version_uid for event in runner.host.model_events()] == [kept.uid]


async def test_a_release_is_answered_also_for_what_failed_or_is_not_here(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        with pytest.raises(HeadraceError):
            await runner.load("broken", b"this is not a model")
        broken = runner.events[-1].version_uid
        for uid in (broken, "unheard-of"):
            runner.host.release(uid)
            assert (runner.events[-1].version_uid, runner.states(uid)[-1]) == (uid, "UNLOADED")
            assert runner.events[-1].released


async def test_closing_waits_for_what_runs(tmp_path: Path, gate: Gate) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())
        payload = request_of({"x": np.array(0, np.int64), "y": np.array(STEPS, np.int64)})
        gate.shut()
        call = asyncio.create_task(runner.answer(runner.call(version, payload)))
        await eventually(lambda: runner.metric("executing") == 1)
        closing = asyncio.create_task(runner.host.close())
        await eventually(lambda: runner.states(version.uid)[-1] == "UNLOADED")
        assert not closing.done()
        gate.open()
        await closing
        assert outputs_of((await call).payload)["z"] == STEPS
        runner.want(version)
        assert runner.host.model_events() == []


async def test_heartbeats_tell_how_busy_each_loaded_model_is(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock) as runner:
        version = await runner.load("m", onnx_models.identity())
        await runner.load("slow", onnx_models.counting_loop())
        clock.advance(2.0)
        assert {(load.calls, load.idle_ms) for load in runner.host.load().models} == {(0, 2_000)}
        await runner.infer(version, x=ROWS)
        clock.advance(0.5)
        newest, idle = runner.host.load().models
        assert (newest.version_uid, newest.calls, newest.idle_ms, newest.in_flight) == (version.uid, 1, 500, 0)
        assert (idle.calls, idle.idle_ms) == (0, 2_500)


async def test_calls_are_counted_by_whether_their_model_is_here(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await runner.load("m", onnx_models.identity())
        for _ in range(3):
            await runner.infer(version, x=ROWS)
        await failure_of(runner.answer(runner.call(version_of("absent", {"model.onnx": b""}), b"")))
        assert [runner.metric("model_cache_total", result=result) for result in ("hit", "miss")] == [3, 1]


async def test_a_want_by_name_alone_renews_what_is_here_and_is_told_of_what_is_not(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock, model_idle_max_s=100.0) as runner:
        version = await runner.load("m", onnx_models.identity())
        clock.advance(50)
        runner.want(Version(uid=version.uid), ticket="")
        assert runner.states(version.uid) == ["LOADING", "LOADED"], "nothing has changed"
        clock.advance(59)
        runner.host.sweep()
        assert runner.states(version.uid)[-1] == "LOADED"
        runner.want(Version(uid="gone"), ticket="")
        assert runner.states("gone") == ["UNLOADED"]


async def test_a_model_that_is_called_though_nobody_wants_it_here_finishes_its_calls_and_leaves(
    tmp_path: Path, gate: Gate
) -> None:
    clock = FakeClock()
    async with running_host(tmp_path, clock=clock) as runner:
        version = await runner.load("slow", onnx_models.counting_loop())

        def count(steps: int) -> asyncio.Task[Answer]:
            payload = request_of({"x": np.array(0, np.int64), "y": np.array(steps, np.int64)})
            return asyncio.create_task(runner.answer(runner.call(version, payload)))

        clock.advance(65)
        await count(1)
        runner.host.sweep()
        assert runner.states(version.uid)[-1] == "LOADED", "the want has only just lapsed"
        clock.advance(10)
        gate.shut()
        call = count(STEPS)
        await eventually(lambda: runner.metric("executing") == 1)
        runner.host.sweep()
        await eventually(lambda: runner.states(version.uid)[-1] == "UNLOADED")
        gate.open()
        assert outputs_of((await call).payload)["z"] == STEPS
        assert runner.metric("evictions_total", cache="memory", reason="surplus") == 1


async def test_a_listener_hears_nothing_once_removed(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        heard: list[object] = []
        runner.host.add_listener(heard.append)
        runner.host.remove_listener(heard.append)
        await runner.load("m", onnx_models.identity())
        assert heard == []
