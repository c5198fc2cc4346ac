"""State that a runner keeps between the requests of a sequence, with real speech and with a model that counts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from google.protobuf import json_format
from numpy.typing import NDArray

from headrace.registry.v1.manifest_pb2 import ArtifactFormat, Manifest
from headrace.registry.v1.models_pb2 import Version
from headrace_cli.samples import available_samples
from headrace_common import catalogue
from headrace_common.testing import FakeClock
from headrace_runner.calls import Answer, Cancel, Outcome
from inference import open_inference_pb2 as pb
from support import onnx_models, real_inputs
from support.eventually import eventually
from support.gate import Gate
from support.runner import RunnerUnderTest, failure_of, outputs_of, request_of, running_host

RATE = np.array(16_000, np.int64)


def sequencing(folder: Path, **settings: Any) -> AbstractAsyncContextManager[RunnerUnderTest]:
    """A host whose time stands still: one that is held up for a second forgets its sequences, as it should."""
    return running_host(folder, **{"clock": FakeClock(), **settings})


def counter(*, initial: int = 0, **policy: Any) -> Manifest:
    """`counting_loop` whose `x` is the former `z`: it counts on by `y`, and takes long when `y` is large."""
    manifest = Manifest(format=ArtifactFormat.ARTIFACT_FORMAT_ONNX, backend="onnxruntime")
    manifest.sequence.states.add(input="x", output="z", initial=np.array(initial, np.int64).tobytes())
    json_format.ParseDict({"sequence": policy}, manifest)
    return manifest


def sequenced(
    inputs: Mapping[str, NDArray[Any]],
    name: int | str,
    *,
    start: bool = False,
    end: bool = False,
    outputs: tuple[str, ...] = (),
) -> bytes:
    """A request as tritonclient sends it."""
    request = pb.ModelInferRequest.FromString(request_of(dict(inputs), outputs=outputs))
    if isinstance(name, str):
        request.parameters["sequence_id"].string_param = name
    else:
        request.parameters["sequence_id"].int64_param = name
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return request.SerializeToString()


def counting(steps: int, name: int | str = 7, *, start: bool = False, end: bool = False, wanted: bool = True) -> bytes:
    outputs = ("z",) if wanted else ()
    return sequenced({"y": np.array(steps, np.int64)}, name, start=start, end=end, outputs=outputs)


async def count(runner: RunnerUnderTest, version: Version, payload: bytes, *, timeout_s: float = 100.0) -> int:
    answer = await runner.answer(runner.call(version, payload, timeout_s=timeout_s))
    return int(outputs_of(bytes(answer.payload))["z"])


def events(runner: RunnerUnderTest, model: str) -> dict[str, float]:
    return {
        event: runner.metric("sequence_events_total", tenant="acme", model=model, version="1", event=event)
        for event in ("started", "ended", "expired", "lost", "refused")
    }


async def test_silero_hears_the_same_whoever_carries_its_state(tmp_path: Path) -> None:
    """Two conversations at once, their frames taking turns."""
    (sample,) = (sample for sample in available_samples() if sample.name == "silero_vad")
    manifest = json_format.ParseDict(yaml.safe_load(sample.manifest_path.read_text()), Manifest())
    async with sequencing(tmp_path) as runner:
        version = await runner.load("silero_vad", sample.model_path.read_bytes(), manifest=manifest)
        talks: dict[int | str, list[real_inputs.SpeechCase]] = {
            7: real_inputs.speech_cases(200, 60),
            "seven": real_inputs.speech_cases(320, 60),
        }
        heard: list[float] = []
        for index, cases in enumerate(zip(*talks.values(), strict=True)):
            for name, case in zip(talks, cases, strict=True):
                payload = sequenced({"input": case.frame, "sr": RATE}, name, start=index == 0, end=index == 59)
                outputs = outputs_of(bytes((await runner.answer(runner.call(version, payload))).payload))
                assert list(outputs) == ["output"], "the state stays where it is"
                np.testing.assert_allclose(outputs["output"], case.output, atol=1e-5)
                heard.append(float(outputs["output"][0, 0]))
        assert max(heard) > 0.9
        assert events(runner, "silero_vad") == {"started": 2, "ended": 2, "expired": 0, "lost": 0, "refused": 0}
        assert runner.metric("sequences_live", tenant="acme", model="silero_vad", version="1") == 0
        first = talks[7][0]
        payload = sequenced({"input": first.frame, "sr": RATE}, 8, start=True, outputs=("stateN", "output"))
        outputs = outputs_of(bytes((await runner.answer(runner.call(version, payload))).payload))
        np.testing.assert_allclose(outputs["stateN"], first.state, atol=1e-5)
        assert runner.metric("sequence_state_bytes", tenant="acme", model="silero_vad", version="1") == 4 * 2 * 128


async def test_requests_of_a_sequence_are_executed_one_after_another(tmp_path: Path) -> None:
    """Also where there are threads for more of them, and later ones take less time."""
    async with sequencing(tmp_path) as runner:
        version = await runner.load("counter", onnx_models.counting_loop(), instances=2, manifest=counter(initial=5))
        steps = [20_000, 1_000, 1, 5_000, 10]
        counts = await asyncio.gather(
            *(count(runner, version, counting(step, start=index == 0)) for index, step in enumerate(steps))
        )
        assert counts == [5 + sum(steps[: index + 1]) for index in range(len(steps))]


async def test_what_was_cancelled_late_or_failed_has_not_happened(tmp_path: Path, gate: Gate) -> None:
    clock = FakeClock()
    async with sequencing(tmp_path, clock=clock) as runner:
        version = await runner.load("counter", onnx_models.counting_loop(), manifest=counter())
        assert await count(runner, version, counting(3, start=True)) == 3
        gate.shut()
        late = asyncio.create_task(failure_of(count(runner, version, counting(1_000), timeout_s=1.0)))
        await eventually(lambda: runner.metric("executing") == 1)
        clock.advance(1.1)
        assert (await late).entry is catalogue.INFERENCE_TIMEOUT
        gate.open()
        await eventually(lambda: runner.metric("executing") == 0)
        gate.shut()
        cancelled = asyncio.create_task(count(runner, version, counting(1_000)))
        await eventually(lambda: runner.metric("executing") == 1)
        behind = asyncio.create_task(count(runner, version, counting(100)))
        follower = asyncio.create_task(count(runner, version, counting(4)))
        await asyncio.sleep(0)
        behind.cancel()
        cancelled.cancel()
        await asyncio.wait([behind, cancelled])
        gate.open()
        assert await follower == 7
        assert await count(runner, version, counting(1, end=True)) == 8
        error = await failure_of(count(runner, version, counting(1)))
        assert (error.entry, error.context) == (catalogue.SEQUENCE_NOT_FOUND, {"sequence_id": "7"})
        assert events(runner, "counter")["ended"] == 1


async def test_under_random_cancels_a_count_is_the_sum_of_what_was_answered(tmp_path: Path) -> None:
    """Requests that wait for their turn, wait for a slot, or compute are cancelled in no order at all."""
    chance = random.Random(4)
    async with sequencing(tmp_path) as runner:
        version = await runner.load("counter", onnx_models.counting_loop(), instances=2, manifest=counter())
        counts = {name: await count(runner, version, counting(0, name, start=True)) for name in range(1, 6)}
        told = Counter[str]()

        def ended(name: int, steps: int, outcome: Outcome) -> None:
            assert isinstance(outcome, Answer), outcome
            counts[name] += steps
            told["right" if int(outputs_of(bytes(outcome.payload))["z"]) == counts[name] else "wrong"] += 1

        for _ in range(80):
            cancels: list[Cancel] = []
            for _ in range(8):
                name, steps = chance.randint(1, 5), chance.choice((1, 2, 3, 4_000))
                call = runner.call(version, counting(steps, name))
                cancels.append(runner.host.begin(call, partial(ended, name, steps)))
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.003)))
            for cancel in chance.sample(cancels, 4):
                cancel()
        await eventually(lambda: runner.host.load().in_flight == 0)
        assert told["right"] > 300
        assert not told["wrong"]
        for name, expected in counts.items():
            assert await count(runner, version, counting(0, name, end=True)) == expected
        labels = {"tenant": "acme", "model": "counter", "version": "1"}
        assert runner.metric("sequences_live", **labels) == runner.metric("sequence_state_bytes", **labels) == 0


async def test_a_model_stays_while_it_has_sequences(tmp_path: Path) -> None:
    clock = FakeClock()
    async with sequencing(tmp_path, clock=clock, model_idle_max_s=0.01) as runner:
        version = await runner.load("counter", onnx_models.counting_loop(), manifest=counter())
        await count(runner, version, counting(1, start=True))
        runner.want(version, ttl_s=0)
        clock.advance(0.05)
        runner.host.sweep()
        assert await count(runner, version, counting(1, end=True)) == 2
        clock.advance(0.05)
        runner.host.sweep()
        await eventually(lambda: runner.states(version.uid)[-1] == "UNLOADED")


async def test_sequences_are_bounded_and_expire(tmp_path: Path) -> None:
    manifest, clock = counter(sequences_max=2, idle_timeout="0.6s"), FakeClock()
    async with sequencing(tmp_path, clock=clock) as runner:
        version = await runner.load("counter", onnx_models.counting_loop(), manifest=manifest)
        for name in (1, 2):
            await count(runner, version, counting(1, name, start=True))
        error = await failure_of(count(runner, version, counting(1, 3, start=True)))
        assert error.entry is catalogue.SEQUENCE_LIMIT_REACHED
        assert error.context["limit"] == 2
        clock.advance(0.7)
        labels = {"tenant": "acme", "model": "counter", "version": "1"}
        await eventually(lambda: runner.metric("sequences_live", **labels) == 0)
        assert await count(runner, version, counting(1, 3, start=True)) == 1
        assert events(runner, "counter") == {"started": 3, "ended": 0, "expired": 2, "lost": 0, "refused": 1}


async def test_memory_of_state_is_bounded(tmp_path: Path) -> None:
    async with sequencing(tmp_path, sequence_bytes_max=8) as runner:
        version = await runner.load("counter", onnx_models.counting_loop(), manifest=counter())
        assert await count(runner, version, counting(1, 1, start=True)) == 1
        error = await failure_of(count(runner, version, counting(1, 2, start=True)))
        assert error.entry is catalogue.SEQUENCE_LIMIT_REACHED
        assert await count(runner, version, counting(1, 1)) == 2


async def test_a_request_without_a_sequence_brings_its_own_state(tmp_path: Path) -> None:
    async with sequencing(tmp_path) as runner:
        version = await runner.load("counter", onnx_models.counting_loop(), manifest=counter())
        own = {"x": np.array(40, np.int64), "y": np.array(2, np.int64)}
        assert await count(runner, version, request_of(own)) == 42
        error = await failure_of(count(runner, version, request_of({"y": own["y"]})))
        assert error.entry is catalogue.TENSOR_MISSING
        assert "sequence_id" in error.message
        assert await count(runner, version, sequenced(own, 7, start=True, outputs=("z",))) == 42, "its own comes first"
        assert await count(runner, version, counting(1)) == 43


async def test_a_model_that_leaves_takes_its_sequences_along(tmp_path: Path) -> None:
    async with sequencing(tmp_path) as runner:
        version = await runner.load("counter", onnx_models.counting_loop(), manifest=counter())
        await count(runner, version, counting(1, start=True))
        runner.host.release(version.uid)
        await eventually(lambda: runner.states(version.uid)[-1] == "UNLOADED")
        version = await runner.load("counter", onnx_models.counting_loop(), manifest=counter())
        error = await failure_of(count(runner, version, counting(1)))
        assert error.entry is catalogue.SEQUENCE_NOT_FOUND


async def test_state_that_the_model_does_not_have_fails_the_load(tmp_path: Path) -> None:
    manifest = counter()
    manifest.sequence.states[0].output = "lost"
    async with sequencing(tmp_path) as runner:
        with pytest.raises(Exception, match="'lost'") as caught:
            await runner.load("counter", onnx_models.counting_loop(), manifest=manifest)
        assert getattr(caught.value, "entry", None) is catalogue.MODEL_MANIFEST_MISMATCH
