"""A version's configuration and counters in Triton's form."""

from __future__ import annotations

import pytest

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.call import Caller
from headrace_gateway.model_config import ROWS_MAX, config_of
from headrace_gateway.model_statistics import statistics_of
from inference import model_placement_pb2 as placement
from inference import model_tensors_pb2 as tensors
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore

DATATYPES = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
DATATYPES += ("FP16", "FP32", "FP64", "BF16", "BYTES")


def manifest(*, batched: bool, shape: tuple[int, ...] = (-1, 3), **fields: object) -> manifest_pb2.Manifest:
    spec = manifest_pb2.TensorSpec(name="x", datatype="FP32", shape=shape, optional=True)
    made = manifest_pb2.Manifest(
        format=manifest_pb2.ARTIFACT_FORMAT_ONNX, inputs=[spec], outputs=[spec], batched=batched
    )
    made.MergeFrom(manifest_pb2.Manifest(**fields))  # pyright: ignore[reportArgumentType]
    return made


def version_with(described: manifest_pb2.Manifest) -> CatalogVersion:
    core = GatewayCore()
    found = core.catalog.by_uid(core.register("m", 3, manifest=described))
    assert found is not None
    return found


def test_shapes_of_a_batched_model_come_without_the_batch_axis() -> None:
    config = config_of(version_with(manifest(batched=True)))
    assert (config.name, config.platform, config.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert (config.max_batch_size, list(config.input[0].dims), list(config.output[0].dims)) == (ROWS_MAX, [3], [3])
    assert (config.input[0].name, config.input[0].data_type, config.input[0].optional) == (
        "x",
        tensors.TYPE_FP32,
        True,
    )
    assert config.version_policy.WhichOneof("policy_choice") == "all"
    assert not config.model_transaction_policy.decoupled


def test_shapes_of_another_model_come_whole() -> None:
    config = config_of(version_with(manifest(batched=False)))
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 3])


def test_execution_wishes_are_instances_and_a_backend_setting() -> None:
    wishes = manifest_pb2.ExecutionPolicy(instances=3, threads=2)
    config = config_of(version_with(manifest(batched=False, execution=wishes, device_types=["cuda"], backend="other")))
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, placement.ModelInstanceGroup.KIND_GPU)
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert (config.backend, config.platform) == ("other", "other_onnx")


def test_batches_are_described_with_their_bounds_and_priorities() -> None:
    batching = manifest_pb2.BatchingPolicy(max_batch_size=32, preferred_batch_sizes=[8, 16])
    batching.max_queue_delay.FromMilliseconds(5)
    config = config_of(version_with(manifest(batched=True, execution=manifest_pb2.ExecutionPolicy(batching=batching))))
    described = config.dynamic_batching
    assert (config.max_batch_size, list(described.preferred_batch_size)) == (32, [8, 16])
    assert described.max_queue_delay_microseconds == 5_000
    assert (described.priority_levels, described.default_priority_level) == (10, 5)
    assert config_of(version_with(manifest(batched=False))).WhichOneof("scheduling_choice") is None


@pytest.mark.parametrize(("batched", "dims"), [(False, [2, -1, 3]), (True, [-1, 3])])
def test_kept_state_is_described_as_a_sequence_and_needs_no_input(batched: bool, dims: list[int]) -> None:
    described = manifest(batched=batched)
    described.inputs.add(name="state", datatype="FP32", shape=[-1 if batched else 2, -1, 3])
    described.sequence.states.add(input="state", output="x")
    described.sequence.idle_timeout.seconds = 5
    config = config_of(version_with(described))
    sequences = config.sequence_batching
    assert [given.optional for given in config.input if given.name == "state"] == [True]
    (state,) = sequences.state
    assert (state.input_name, state.output_name, list(state.dims)) == ("state", "x", dims)
    (initial,) = state.initial_state
    assert (initial.zero_data, list(initial.dims)) == (True, [1 if size < 0 else size for size in dims])
    assert (sequences.max_sequence_idle_microseconds, sequences.WhichOneof("strategy_choice")) == (5_000_000, "direct")


@pytest.mark.parametrize(
    ("devices", "kind"),
    [([], "KIND_AUTO"), (["cpu"], "KIND_CPU"), (["cuda", "cpu"], "KIND_AUTO"), (["tpu"], "KIND_MODEL")],
)
def test_device_types_are_a_kind_of_instance(devices: list[str], kind: str) -> None:
    (group,) = config_of(version_with(manifest(batched=True, device_types=devices))).instance_group
    assert placement.ModelInstanceGroup.Kind.Name(group.kind) == kind
    assert group.count == 1


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_a_type_of_the_configuration(datatype: str) -> None:
    described = manifest(batched=False)
    described.inputs[0].datatype = datatype
    found = config_of(version_with(described)).input[0].data_type
    assert tensors.DataType.Name(found) == ("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")


async def test_counters_are_those_of_the_calls_that_were_made() -> None:
    core = GatewayCore()
    runner = core.join()
    uid = core.register("m")
    runner.loaded(uid)
    request = oip.ModelInferRequest(model_name="m").SerializeToString()
    outcomes: list[object] = []
    for rows in (2, 2, 5, 0):
        core.handler.begin(request, Caller("acme", "r", "", 30.0), lambda call, outcome: outcomes.append(outcome))
        (call,) = runner.received()
        core.clock.advance(0.5)
        failure = None if rows else ModelError("no", entry=catalogue.MODEL_EXECUTION_FAILED)
        runner.answer(call, failure=failure, rows=rows)
    assert [isinstance(outcome, HeadraceError) for outcome in outcomes] == [False, False, False, True]
    version = core.catalog.by_uid(uid)
    assert version is not None
    meters = core.metrics.peek(version)
    found = statistics_of(version, meters, answered_at_s=1234.5, memory_bytes={"cpu": 7, "cuda": 9})
    assert (found.name, found.version, found.last_inference) == ("m", "1", 1_234_500)
    assert (found.inference_count, found.execution_count) == (9, 3)
    stages = found.inference_stats
    assert (stages.success.count, stages.success.ns) == (3, 1_500_000_000)
    assert (stages.fail.count, stages.fail.ns) == (1, 500_000_000)
    assert (stages.queue.count, stages.queue.ns) == (3, 30_000)
    assert (stages.compute_input.ns, stages.compute_infer.ns, stages.compute_output.ns) == (60_000, 150_000, 90_000)
    assert (stages.cache_hit.count, stages.cache_miss.count) == (0, 0)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in found.batch_stats] == [(2, 2), (5, 1)]
    assert [(place.type, place.byte_size) for place in found.memory_usage] == [("CPU", 7), ("GPU", 9)]


def test_a_version_that_was_never_called_has_zeros_and_leaves_no_series() -> None:
    core = GatewayCore()
    version = core.catalog.by_uid(core.register("m"))
    assert version is not None
    found = statistics_of(version, core.metrics.peek(version), answered_at_s=0.0, memory_bytes={})
    assert (found.inference_count, found.last_inference, found.inference_stats.success.count) == (0, 0, 0)
    (requests, *_) = core.metrics.collect()
    assert list(requests.samples) == []
