"""What a file says, overridden field by field by what its uploader states."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.registry.v1.manifest_pb2 import ARTIFACT_FORMAT_ONNX, ExecutionPolicy, Manifest, TensorSpec
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_registry.inspection import Signature
from headrace_registry.manifest import CLASS_LABELS_MAX, check_stated, merged
from headrace_registry.tensor_rules import DATATYPES


def signature(*shapes: list[int]) -> Signature:
    """Inputs `a`, `b`, … of these shapes, and one output `z` like the first."""
    inputs = [TensorSpec(name="abcdef"[index], datatype="FP32", shape=shape) for index, shape in enumerate(shapes)]
    return Signature(inputs=inputs, outputs=[TensorSpec(name="z", datatype="FP32", shape=shapes[0])])


def merge(stated: Manifest, inferred: Signature) -> Manifest:
    check_stated(stated)
    return merged(stated=stated, artifact_format=ARTIFACT_FORMAT_ONNX, inferred=inferred)


def test_nothing_stated_is_all_inferred() -> None:
    inferred = signature([-1, 4], [-1])
    manifest = merge(Manifest(), inferred)
    assert (list(manifest.inputs), list(manifest.outputs)) == (list(inferred.inputs), list(inferred.outputs))
    assert (manifest.format, manifest.backend, manifest.batched) == (ARTIFACT_FORMAT_ONNX, "onnxruntime", True)
    assert not manifest.HasField("execution")


@pytest.mark.parametrize(
    ("shapes", "batched"),
    [
        ([[-1, 4]], True),
        ([[-1]], True),
        ([[-1, 4], [-1, 2, 2]], True),
        ([[1, 4]], False),
        ([[]], False),
        ([[-1, 4], []], False),
        ([[-1, 4], [2, -1, 128]], False),
    ],
)
def test_batched_needs_a_free_first_axis_everywhere(shapes: list[list[int]], batched: bool) -> None:
    manifest = merge(Manifest(), signature(*shapes))
    assert manifest.HasField("batched")
    assert manifest.batched is batched


def test_batching_can_be_switched_off() -> None:
    assert not merge(Manifest(batched=False), signature([-1, 4])).batched


def test_everything_but_tensors_is_taken_as_stated() -> None:
    stated = Manifest(
        backend="triton",
        device_types=["cuda", "cpu"],
        class_labels=["cat", "dog"],
        metadata={"team": "vision"},
        description="tells cats from dogs",
        execution=ExecutionPolicy(instances=2, threads=1, replicas=3),
    )
    manifest = merge(stated, signature([-1]))
    del manifest.inputs[:], manifest.outputs[:]
    for name in ("format", "task", "batched"):
        manifest.ClearField(name)
    assert manifest == stated


def test_stated_tensor_is_matched_by_name_and_order_stays_the_files() -> None:
    inferred = signature([-1, 4], [-1, 8])
    stated = Manifest(inputs=[TensorSpec(name="b", shape=[2, 8]), TensorSpec(name="a")])
    manifest = merge(stated, inferred)
    assert [(tensor.name, list(tensor.shape)) for tensor in manifest.inputs] == [("a", [-1, 4]), ("b", [2, 8])]


@given(
    st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=1, max_size=4),
    st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=1, max_size=4),
)
def test_shapes_may_narrow_free_axes_and_nothing_else(own: list[int], stated: list[int]) -> None:
    fits = len(own) == len(stated) and all(mine in (-1, theirs) for mine, theirs in zip(own, stated, strict=True))
    manifest = Manifest(inputs=[TensorSpec(name="a", shape=stated)])
    if fits:
        assert list(merge(manifest, signature(own)).inputs[0].shape) == stated
    else:
        with pytest.raises(HeadraceError) as failure:
            merge(manifest, signature(own))
        assert failure.value.entry == catalogue.MODEL_MANIFEST_MISMATCH
        assert str(failure.value.field).startswith("header.manifest.inputs[0].shape")


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        (Manifest(inputs=[TensorSpec(name="a", datatype="INT8")]), "inputs[0].datatype"),
        (Manifest(inputs=[TensorSpec(name="z")]), "inputs[0].name"),
        (Manifest(outputs=[TensorSpec(name="a")]), "outputs[0].name"),
        (Manifest(inputs=[TensorSpec(name="a", optional=True)]), "inputs[0].optional"),
        (Manifest(batched=True, inputs=[TensorSpec(name="a", shape=[1, 4])]), "batched"),
    ],
)
def test_contradiction_names_its_field(stated: Manifest, field: str) -> None:
    with pytest.raises(HeadraceError) as failure:
        merge(stated, signature([-1, 4]))
    assert failure.value.entry == catalogue.MODEL_MANIFEST_MISMATCH
    assert failure.value.field == f"header.manifest.{field}"
    assert failure.value.message.startswith(f"header.manifest.{field} ")


def _labels(manifest: Manifest) -> None:
    manifest.class_labels.extend([""] * (CLASS_LABELS_MAX + 1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.inputs.add(), "inputs[0].name"),
        (lambda m: m.inputs.extend([TensorSpec(name="a"), TensorSpec(name="a")]), "inputs[1].name"),
        (lambda m: m.outputs.add(name="a", datatype="FLOAT"), "outputs[0].datatype"),
        (lambda m: m.inputs.add(name="a", shape=[-2]), "inputs[0].shape[0]"),
        (lambda m: m.inputs.add(name="a", shape=[1, 0]), "inputs[0].shape[1]"),
        (lambda m: m.device_types.extend(["cpu", "cpu"]), "device_types[1]"),
        (lambda m: m.device_types.append("CPU"), "device_types[0]"),
        (lambda m: setattr(m, "backend", "../evil"), "backend"),
        (lambda m: setattr(m.execution, "instances", 65), "execution.instances"),
        (lambda m: setattr(m.execution, "threads", 257), "execution.threads"),
        (lambda m: setattr(m.execution, "replicas", 65), "execution.replicas"),
        (lambda m: m.class_labels.append("x" * 257), "class_labels[0]"),
        (_labels, "class_labels"),
        (lambda m: m.metadata.update({"k": "x" * 257}), "metadata[k]"),
        (lambda m: m.metadata.update({str(i): "" for i in range(65)}), "metadata"),
        (lambda m: setattr(m, "description", "x" * 1025), "description"),
    ],
)
def test_statement_that_can_not_be_right_names_its_field(change: Callable[[Manifest], object], field: str) -> None:
    stated = Manifest()
    change(stated)
    with pytest.raises(HeadraceError) as failure:
        check_stated(stated)
    assert failure.value.entry == catalogue.MODEL_MANIFEST_INVALID
    assert failure.value.field == f"header.manifest.{field}"


def test_manifest_above_its_size_limit_is_refused() -> None:
    stated = Manifest(class_labels=["x" * 256] * 5_000)
    with pytest.raises(HeadraceError, match="1048576") as failure:
        check_stated(stated)
    assert failure.value.entry == catalogue.MODEL_MANIFEST_INVALID


def test_unknown_format_is_unsupported() -> None:
    stated = Manifest.FromString(b"\x08\x63")
    with pytest.raises(HeadraceError) as failure:
        check_stated(stated)
    assert failure.value.entry == catalogue.MODEL_FORMAT_UNSUPPORTED


def test_every_protocol_datatype_may_be_stated() -> None:
    for datatype in DATATYPES:
        check_stated(Manifest(inputs=[TensorSpec(name="a", datatype=datatype)]))


def test_merging_changes_neither_side() -> None:
    stated = Manifest(inputs=[TensorSpec(name="a", shape=[2, 4])])
    inferred = signature([-1, 4])
    before = stated.SerializeToString(), inferred.inputs[0].SerializeToString()
    manifest = merge(stated, inferred)
    manifest.inputs[0].shape[0] = 9
    assert (stated.SerializeToString(), inferred.inputs[0].SerializeToString()) == before
