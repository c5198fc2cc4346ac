"""A version's manifest as Triton's `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.registry.v1 import manifest_pb2
from headrace_gateway.catalog import CatalogVersion
from inference import model_config_pb2, model_placement_pb2, model_scheduling_pb2, model_tensors_pb2

# The backend that serves a format when the manifest names none, and the format's own name: together the platform.
_PLATFORMS = {
    manifest_pb2.ARTIFACT_FORMAT_ONNX: ("onnxruntime", "onnx"),
    manifest_pb2.ARTIFACT_FORMAT_GGUF: ("llamacpp", "gguf"),
}
_INSTANCE_KINDS: Mapping[tuple[str, ...], model_placement_pb2.ModelInstanceGroup.Kind.ValueType] = {
    (): model_placement_pb2.ModelInstanceGroup.KIND_AUTO,
    ("cpu",): model_placement_pb2.ModelInstanceGroup.KIND_CPU,
    ("cuda",): model_placement_pb2.ModelInstanceGroup.KIND_GPU,
    ("cuda", "cpu"): model_placement_pb2.ModelInstanceGroup.KIND_AUTO,
}

# Of Triton's levels 1 is the most urgent; the mesh's 9 to 0 are 1 to 10.
_PRIORITY_LEVELS, _PRIORITY_LEVEL_DEFAULT = 10, 5
_IDLE_US = 60_000_000

ROWS_MAX = (1 << 31) - 1
"""What `max_batch_size` says of a batched model without a bound: it takes as many rows as a message holds."""


def backend_of(manifest: manifest_pb2.Manifest) -> str:
    """Name of the backend that serves the version."""
    known = _PLATFORMS.get(manifest.format)
    return manifest.backend or (known[0] if known else "")


def platform_of(manifest: manifest_pb2.Manifest) -> str:
    """Backend and format in one word, such as `onnxruntime_onnx`."""
    known = _PLATFORMS.get(manifest.format)
    return f"{backend_of(manifest)}_{known[1]}" if known else manifest.backend


def config_of(version: CatalogVersion) -> model_config_pb2.ModelConfig:
    """The configuration with which Triton would serve the version as this mesh does.

    Where the model is batched, shapes come without the batch axis, as Triton has it.
    """
    manifest = version.proto.manifest
    execution = manifest.execution
    config = model_config_pb2.ModelConfig(
        name=version.model,
        platform=platform_of(manifest),
        backend=backend_of(manifest),
        version_policy=model_config_pb2.ModelVersionPolicy(all=model_config_pb2.ModelVersionPolicy.All()),
        max_batch_size=(execution.batching.max_batch_size or ROWS_MAX) if manifest.batched else 0,
        instance_group=[
            model_placement_pb2.ModelInstanceGroup(
                name=version.model,
                kind=_INSTANCE_KINDS.get(
                    tuple(manifest.device_types), model_placement_pb2.ModelInstanceGroup.KIND_MODEL
                ),
                count=execution.instances or 1,
            )
        ],
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=version.generates),
    )
    kept = {state.input for state in manifest.sequence.states}
    for spec in manifest.inputs:
        optional = spec.optional or spec.name in kept
        config.input.add(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, manifest), optional=optional)
    for spec in manifest.outputs:
        config.output.add(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, manifest))
    if len(version.proto.files) == 1:
        config.default_model_filename = version.proto.files[0].path
    if manifest.HasField("sequence"):
        config.sequence_batching.CopyFrom(_sequences(manifest))
    elif manifest.batched:
        config.dynamic_batching.CopyFrom(_batches(execution.batching))
    if execution.threads:
        config.parameters["intra_op_thread_count"].string_value = str(execution.threads)
    return config


def _sequences(manifest: manifest_pb2.Manifest) -> model_scheduling_pb2.ModelSequenceBatching:
    """State is the model's, one slot for each sequence; Triton has no initial values other than zeros and files."""
    policy = manifest.sequence
    idle_us = policy.idle_timeout.ToMicroseconds() or _IDLE_US
    sequences = model_scheduling_pb2.ModelSequenceBatching(max_sequence_idle_microseconds=idle_us)
    sequences.direct.SetInParent()
    inputs = {spec.name: spec for spec in manifest.inputs}
    for state in policy.states:
        spec = inputs[state.input]
        described = sequences.state.add(
            input_name=state.input,
            output_name=state.output,
            data_type=_data_type(spec),
            dims=_dims(spec, manifest),
        )
        if not state.initial:
            shape = list(state.shape) or [1 if size < 0 else size for size in spec.shape]
            described.initial_state.add(
                data_type=_data_type(spec), dims=shape[1:] if manifest.batched else shape, zero_data=True, name="zeros"
            )
    return sequences


def _batches(batching: manifest_pb2.BatchingPolicy) -> model_scheduling_pb2.ModelDynamicBatching:
    return model_scheduling_pb2.ModelDynamicBatching(
        preferred_batch_size=batching.preferred_batch_sizes,
        max_queue_delay_microseconds=batching.max_queue_delay.ToMicroseconds(),
        priority_levels=_PRIORITY_LEVELS,
        default_priority_level=_PRIORITY_LEVEL_DEFAULT,
    )


def _data_type(spec: manifest_pb2.TensorSpec) -> model_tensors_pb2.DataType.ValueType:
    return model_tensors_pb2.DataType.Value("TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}")


def _dims(spec: manifest_pb2.TensorSpec, manifest: manifest_pb2.Manifest) -> Sequence[int]:
    return spec.shape[1:] if manifest.batched else spec.shape
