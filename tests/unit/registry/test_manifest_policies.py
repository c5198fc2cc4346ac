"""What a manifest may say of batches, queues, warm-up, sequences, placement and routing."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from headrace.registry.v1.manifest_pb2 import ARTIFACT_FORMAT_ONNX, Manifest, TensorSpec
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_registry.inspection import Signature
from headrace_registry.manifest import check_stated, merged
from headrace_registry.tensor_rules import ITEM_BYTES, check_raw

SIGNATURE = Signature(
    inputs=[
        TensorSpec(name="x", datatype="FP32", shape=[-1, 4]),
        TensorSpec(name="words", datatype="BYTES", shape=[-1]),
        TensorSpec(name="state", datatype="FP32", shape=[2, -1, 3]),
    ],
    outputs=[
        TensorSpec(name="y", datatype="FP32", shape=[-1, 4]),
        TensorSpec(name="count", datatype="INT64", shape=[2, -1, 3]),
        TensorSpec(name="flat", datatype="FP32", shape=[2, 3]),
        TensorSpec(name="narrow", datatype="FP32", shape=[1, -1, 3]),
        TensorSpec(name="next", datatype="FP32", shape=[-1, -1, 3]),
    ],
)
ROWS = Signature(
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[-1, 4])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1, 4])],
)
STATE = {"input": "state", "output": "next"}
EVERYTHING = {
    "execution": {
        "instances": 2,
        "batching": {"max_batch_size": 32, "max_queue_delay": "0.005s", "preferred_batch_sizes": [8, 16, 32]},
        "queue": {
            "calls_max": 500,
            "bytes_max": 1 << 20,
            "timeout": "2s",
            "priorities": [{"priority": 0, "calls_max": 10, "timeout": "0.5s"}, {"priority": 9}],
        },
        "timeout": "30s",
        "warm_up": [{"count": 3, "inputs": {"x": {"shape": [8, 4], "random": True}}}],
    },
    "placement": {
        "min_replicas": 1,
        "max_replicas": 4,
        "schedule": [{"cron": "0 20 * * 1-5", "max_replicas": 1}, {"cron": "*/15 6-8 * * *", "min_replicas": 2}],
    },
    "routing": {"choice": "REPLICA_CHOICE_CHEAPEST", "hedge_after": "0.2s"},
}


def parsed(fields: dict[str, Any]) -> Manifest:
    """As `model.yaml` is read."""
    return ParseDict(fields, Manifest())


def merge(fields: dict[str, Any], inferred: Signature = SIGNATURE) -> Manifest:
    stated = parsed(fields)
    check_stated(stated)
    return merged(stated=stated, artifact_format=ARTIFACT_FORMAT_ONNX, inferred=inferred)


def refused(fields: dict[str, Any], inferred: Signature = SIGNATURE) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        merge(fields, inferred)
    return caught.value


def test_everything_that_can_be_said_is_kept() -> None:
    manifest = merge(EVERYTHING, ROWS)
    stated = parsed(EVERYTHING)
    assert (manifest.execution, manifest.placement, manifest.routing) == (
        stated.execution,
        stated.placement,
        stated.routing,
    )


def test_state_is_kept_with_its_first_value() -> None:
    policy = {"states": [{**STATE, "shape": [2, 5, 3]}], "idle_timeout": "3600s"}
    assert list(merge({"sequence": policy}).sequence.states[0].shape) == [2, 5, 3]
    stated = parsed({"sequence": {"states": [STATE]}})
    stated.sequence.states[0].initial = bytes(4 * 6)
    check_stated(stated)
    merged(stated=stated, artifact_format=ARTIFACT_FORMAT_ONNX, inferred=SIGNATURE)


def batching(**fields: Any) -> dict[str, Any]:
    return {"execution": {"batching": fields}}


def queue(**fields: Any) -> dict[str, Any]:
    return {"execution": {"queue": fields}}


def sample(count: int = 1, **inputs: Any) -> dict[str, Any]:
    return {"execution": {"warm_up": [{"count": count, "inputs": inputs}]}}


def states(*states: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"sequence": {"states": list(states), **fields}}


def placed(**fields: Any) -> dict[str, Any]:
    return {"placement": fields}


BATCHING, QUEUE, SAMPLE = "execution.batching", "execution.queue", "execution.warm_up[0]"
PREFERRED = f"{BATCHING}.preferred_batch_sizes"


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        (batching(max_batch_size=65_537), f"{BATCHING}.max_batch_size", "65536"),
        (batching(max_queue_delay="1.000000001s"), f"{BATCHING}.max_queue_delay", "at most 1 s"),
        (batching(max_queue_delay="-0.001s"), f"{BATCHING}.max_queue_delay", "negative"),
        (batching(preferred_batch_sizes=[8, 8]), f"{PREFERRED}[1]", "above the one before"),
        (batching(preferred_batch_sizes=[0]), f"{PREFERRED}[0]", "at least 1"),
        (batching(preferred_batch_sizes=[65]), f"{PREFERRED}[0]", "max_batch_size is 64"),
        (batching(max_batch_size=8, preferred_batch_sizes=[9]), f"{PREFERRED}[0]", "max_batch_size is 8"),
        (batching(preferred_batch_sizes=[*range(1, 18)]), PREFERRED, "at most 16"),
        ({"batched": False, **batching(max_batch_size=8)}, BATCHING, "`batched` is false"),
        (queue(timeout="0s"), f"{QUEUE}.timeout", "more than 0 s"),
        (queue(priorities=[{"priority": 10}]), f"{QUEUE}.priorities[0].priority", "at most 9"),
        (queue(priorities=[{"priority": 3}, {"priority": 3}]), f"{QUEUE}.priorities[1].priority", "repeats 3"),
        (queue(priorities=[{"timeout": "-1s"}]), f"{QUEUE}.priorities[0].timeout", "negative"),
        ({"execution": {"timeout": "0s"}}, "execution.timeout", "more than 0 s"),
        ({"execution": {"timeout": "3600.5s"}}, "execution.timeout", "at most 3600 s"),
        ({"execution": {"warm_up": [{}] * 17}}, "execution.warm_up", "at most 16"),
        (sample(count=101), f"{SAMPLE}.count", "at most 100"),
        (sample(x={"shape": [1, -1]}), f"{SAMPLE}.inputs[x].shape[1]", "at least 1"),
        (sample(x={"shape": [1 << 23, 4]}), f"{SAMPLE}.inputs[x].shape", "16777216 elements"),
        (sample(x={"shape": [1, 4], "raw": "AAAA", "random": True}), f"{SAMPLE}.inputs[x].random", "beside `raw`"),
        (states(), "sequence.states", "at least one"),
        (states({"output": "next"}), "sequence.states[0].input", "required"),
        (states({"input": "state"}), "sequence.states[0].output", "required"),
        (states(STATE, {"input": "state", "output": "y"}), "sequence.states[1].input", "repeats 'state'"),
        (states(STATE, {"input": "x", "output": "next"}), "sequence.states[1].output", "repeats 'next'"),
        (states({**STATE, "shape": [2, 0, 3]}), "sequence.states[0].shape[1]", "at least 1"),
        (states(STATE, idle_timeout="3601s"), "sequence.idle_timeout", "at most 3600 s"),
        (states(STATE, idle_timeout="0s"), "sequence.idle_timeout", "more than 0 s"),
        (states(STATE, sequences_max=65_537), "sequence.sequences_max", "at most 65536"),
        (placed(min_replicas=3, max_replicas=2), "placement.min_replicas", "max_replicas is 2"),
        (placed(min_replicas=65), "placement.min_replicas", "at most 64"),
        (placed(max_replicas=65), "placement.max_replicas", "at most 64"),
        (placed(schedule=[{"cron": "0 0 * * *"}] * 33), "placement.schedule", "at most 32"),
        (
            placed(schedule=[{"cron": "0 0 * * *", "min_replicas": 2, "max_replicas": 1}]),
            "placement.schedule[0].min_replicas",
            "max_replicas is 1",
        ),
        (placed(schedule=[{"cron": "0 0 * *"}]), "placement.schedule[0].cron", "five fields"),
        (placed(schedule=[{"cron": "0 0 0 * * *"}]), "placement.schedule[0].cron", "five fields"),
        (placed(schedule=[{"cron": "@daily"}]), "placement.schedule[0].cron", "five fields"),
        (placed(schedule=[{"cron": "60 0 * * *"}]), "placement.schedule[0].cron", "can't be read"),
        (placed(schedule=[{"cron": "0 0 30 2 *"}]), "placement.schedule[0].cron", "ever comes"),
        ({"routing": {"choice": 9}}, "routing.choice", "REPLICA_CHOICE_LATENCY"),
        ({"routing": {"hedge_after": "0s"}}, "routing.hedge_after", "more than 0 s"),
        ({"routing": {"hedge_after": "3601s"}}, "routing.hedge_after", "at most 3600 s"),
    ],
)
def test_what_can_not_be_right_names_its_field_and_limit(fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        check_stated(parsed(fields))
    error = caught.value
    assert (error.entry, error.field) == (catalogue.MODEL_MANIFEST_INVALID, f"header.manifest.{field}")
    assert says in error.message


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        (batching(max_batch_size=8), BATCHING, "'state'"),
        (sample(z={"shape": [1]}), f"{SAMPLE}.inputs[z]", "no input"),
        (sample(x={"shape": [1, 5]}), f"{SAMPLE}.inputs[x].shape", "[-1, 4]"),
        (sample(x={"shape": [4]}), f"{SAMPLE}.inputs[x].shape", "[-1, 4]"),
        (sample(x={"shape": [1, 4], "raw": "AAAA"}), f"{SAMPLE}.inputs[x].raw", "takes 16"),
        (sample(words={"shape": [2], "raw": "AAAAAA=="}), f"{SAMPLE}.inputs[words].raw", "2 elements"),
        (sample(words={"shape": [1], "raw": "AgAAAAA="}), f"{SAMPLE}.inputs[words].raw", "1 elements"),
        (sample(words={"shape": [1], "random": True}), f"{SAMPLE}.inputs[words].random", "BYTES"),
        (states({**STATE, "input": "lost"}), "sequence.states[0].input", "'lost'"),
        (states({**STATE, "output": "lost"}), "sequence.states[0].output", "'lost'"),
        (states({**STATE, "output": "count"}), "sequence.states[0].output", "INT64"),
        (states({**STATE, "output": "flat"}), "sequence.states[0].output", "[2, 3]"),
        (states({**STATE, "output": "narrow"}), "sequence.states[0].output", "[1, -1, 3]"),
        (states({**STATE, "shape": [1, 1, 3]}), "sequence.states[0].shape", "[2, -1, 3]"),
        (states({**STATE, "initial": "AAAA"}), "sequence.states[0].initial", "takes 24"),
    ],
)
def test_what_contradicts_the_file_names_its_field(fields: dict[str, Any], field: str, says: str) -> None:
    error = refused(fields)
    assert (error.entry, error.field) == (catalogue.MODEL_MANIFEST_MISMATCH, f"header.manifest.{field}")
    assert says in error.message


def test_a_state_too_large_by_the_file_s_axes_is_refused() -> None:
    huge = Signature(
        inputs=[TensorSpec(name="state", datatype="FP32", shape=[1 << 25])],
        outputs=[TensorSpec(name="next", datatype="FP32", shape=[1 << 25])],
    )
    error = refused(states(STATE), huge)
    assert (error.entry, error.field) == (
        catalogue.MODEL_MANIFEST_INVALID,
        "header.manifest.sequence.states[0].shape",
    )


def test_durations_out_of_their_range_are_refused() -> None:
    for seconds, nanos in ((0, 1_500_000_000), (1, -1), (-1, 0)):
        stated = Manifest()
        stated.execution.timeout.seconds = seconds
        stated.execution.timeout.nanos = nanos
        with pytest.raises(HeadraceError) as caught:
            check_stated(stated)
        assert caught.value.field == "header.manifest.execution.timeout"


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 6))
def test_raw_text_is_taken_for_exactly_its_elements(words: list[bytes], elements: int) -> None:
    raw = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    if len(words) == elements:
        check_raw("f", raw, datatype="BYTES", shape=[elements])
    else:
        with pytest.raises(HeadraceError):
            check_raw("f", raw, datatype="BYTES", shape=[elements])


@given(
    st.sampled_from(sorted(ITEM_BYTES.keys() - {"BYTES"})), st.lists(st.integers(1, 4), max_size=3), st.integers(-1, 1)
)
def test_raw_numbers_have_shape_times_size(datatype: str, shape: list[int], more: int) -> None:
    size = ITEM_BYTES[datatype]
    for axis in shape:
        size *= axis
    if more:
        with pytest.raises(HeadraceError, match=str(size)):
            check_raw("f", bytes(max(0, size + more)), datatype=datatype, shape=shape)
    else:
        check_raw("f", bytes(size), datatype=datatype, shape=shape)
