"""Small ONNX models, made on the spot, for edge cases. Real models prove that real models work; these don't.

Every function gives the bytes of a file. Inputs are `x` (and `y`), outputs `z`, unless said otherwise.
"""

# onnx and its NumPy bridge have incomplete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

ELEMENT_TYPES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": TensorProto.BOOL,
        "INT8": TensorProto.INT8,
        "INT16": TensorProto.INT16,
        "INT32": TensorProto.INT32,
        "INT64": TensorProto.INT64,
        "UINT8": TensorProto.UINT8,
        "UINT16": TensorProto.UINT16,
        "UINT32": TensorProto.UINT32,
        "UINT64": TensorProto.UINT64,
        "FP16": TensorProto.FLOAT16,
        "FP32": TensorProto.FLOAT,
        "FP64": TensorProto.DOUBLE,
        "BF16": TensorProto.BFLOAT16,
        "BYTES": TensorProto.STRING,
    }
)
"""ONNX element type of each Open Inference datatype."""

Shape = Sequence[int | str]
"""Sizes of the axes; a text names a free axis, -1 is a free axis named by its place. Empty means a scalar."""


def identity(datatype: str = "FP32", shape: Shape = ("batch", 4)) -> bytes:
    """`z = x`."""
    node = helper.make_node("Identity", ["x"], ["z"])
    return model_file([node], [tensor("x", datatype, shape)], [tensor("z", datatype, shape)])


def identities(datatypes: Sequence[str]) -> bytes:
    """For each datatype an input such as `x_FP32` and an output `z_FP32` that equals it, all of shape (batch, 3)."""
    nodes = [helper.make_node("Identity", [f"x_{name}"], [f"z_{name}"]) for name in datatypes]
    inputs = [tensor(f"x_{name}", name, ("batch", 3)) for name in datatypes]
    outputs = [tensor(f"z_{name}", name, ("batch", 3)) for name in datatypes]
    return model_file(nodes, inputs, outputs)


def add(shape: Shape = ("batch", 4)) -> bytes:
    """`z = x + y` in FP32."""
    node = helper.make_node("Add", ["x", "y"], ["z"])
    specs = [tensor(name, "FP32", shape) for name in ("x", "y", "z")]
    return model_file([node], specs[:2], specs[2:])


def tiny(size: int = 16, *, seed: int = 0) -> bytes:
    """One dense layer without bias, `z = x @ w`, FP32, x and z of shape (batch, size)."""
    weights = tiny_weights(size, seed=seed)
    node = helper.make_node("MatMul", ["x", "w"], ["z"])
    specs = [tensor(name, "FP32", ("batch", size)) for name in ("x", "z")]
    return model_file([node], specs[:1], specs[1:], [numpy_helper.from_array(weights, "w")])


def tiny_weights(size: int = 16, *, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The matrix inside `tiny`, to compute the answer without ONNX Runtime."""
    return np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)


def state_on_second_axis() -> bytes:
    """Rows in `x` (batch, 4), but a state `y` and `z` of (2, batch, 4): must not be taken for batched."""
    node = helper.make_node("Add", ["x", "y"], ["z"])
    state: Shape = (2, "batch", 4)
    return model_file(
        [node], [tensor("x", "FP32", ("batch", 4)), tensor("y", "FP32", state)], [tensor("z", "FP32", state)]
    )


def weighty(size_bytes: int, *, seed: int = 0) -> bytes:
    """A valid model of at least `size_bytes`, most of it a weight that can't be compressed: `z = x + w`."""
    values = np.random.default_rng(seed).integers(0, 1 << 31, size=(size_bytes + 7) // 8, dtype=np.int64)
    node = helper.make_node("Add", ["x", "w"], ["z"])
    specs = [tensor(name, "INT64", ("batch", len(values))) for name in ("x", "z")]
    return model_file([node], specs[:1], specs[1:], [numpy_helper.from_array(values, "w")])


def shelf(size_bytes: int, *, seed: int = 0) -> bytes:
    """A valid model of at least `size_bytes`, whose requests are small: `z = w[x]`, INT64, x of shape (batch,)."""
    values = np.random.default_rng(seed).integers(0, 1 << 31, size=(size_bytes + 7) // 8, dtype=np.int64)
    node = helper.make_node("Gather", ["w", "x"], ["z"])
    specs = [tensor(name, "INT64", ("batch",)) for name in ("x", "z")]
    return model_file([node], specs[:1], specs[1:], [numpy_helper.from_array(values, "w")])


def failing_on_zero() -> bytes:
    """`z = x[y]`: an index of `y` (INT64) outside of 0..3 makes the run itself fail; x is FP32 (4,)."""
    node = helper.make_node("Gather", ["x", "y"], ["z"])
    inputs = [tensor("x", "FP32", (4,)), tensor("y", "INT64", ("batch",))]
    return model_file([node], inputs, [tensor("z", "FP32", ("batch",))])


def lookup() -> bytes:
    """`z = table[x]`, x (INT64) and z (FP32) of shape (batch,): an x outside of 0..3 makes the run of all rows fail."""
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32) * 10, "table")
    node = helper.make_node("Gather", ["table", "x"], ["z"])
    return model_file([node], [tensor("x", "INT64", ("batch",))], [tensor("z", "FP32", ("batch",))], [table])


def sum_of_rows() -> bytes:
    """`z` is the sum of all rows of `x` (FP32): it says that it has a row for each of x, and has one."""
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    node = helper.make_node("ReduceSum", ["x", "axes"], ["z"], keepdims=1)
    return model_file([node], [tensor("x", "FP32", ("batch", 4))], [tensor("z", "FP32", ("rows", 4))], [axes])


def slow_rows(steps: int) -> bytes:
    """`z = x + steps` in as many steps, FP32 of shape (batch, 4): slow on purpose, for any number of rows alike."""
    body_nodes = [
        helper.make_node("Identity", ["more"], ["more_out"]),
        helper.make_node("Add", ["value", "one"], ["value_out"]),
    ]
    shape: Shape = ("batch", 4)
    body = helper.make_graph(
        body_nodes,
        "body",
        [tensor("step", "INT64", ()), tensor("more", "BOOL", ()), tensor("value", "FP32", shape)],
        [tensor("more_out", "BOOL", ()), tensor("value_out", "FP32", shape)],
    )
    weights = [
        numpy_helper.from_array(np.array(steps, np.int64), "steps"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
    ]
    node = helper.make_node("Loop", ["steps", "", "x"], ["z"], body=body)
    return model_file([node], [tensor("x", "FP32", shape)], [tensor("z", "FP32", shape)], weights)


def with_external_data(location: str = "weights.bin") -> bytes:
    """A dense layer whose weights lie in another file, at `location`."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16, 16])
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    node = helper.make_node("MatMul", ["x", "w"], ["z"])
    specs = [tensor(name, "FP32", ("batch", 16)) for name in ("x", "z")]
    return model_file([node], specs[:1], specs[1:], [weights])


def with_external_data_in_subgraph(location: str = "/etc/hostname") -> bytes:
    """External data hidden in a constant of a branch of an `If` node."""
    hidden = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4])
    hidden.data_location = TensorProto.EXTERNAL
    entry = hidden.external_data.add()
    entry.key, entry.value = "location", location
    branch_output = [tensor("branch", "FP32", (4,))]
    branch = helper.make_graph([helper.make_node("Constant", [], ["branch"], value=hidden)], "b", [], branch_output)
    node = helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    return model_file([node], [tensor("x", "BOOL", ())], [tensor("z", "FP32", (4,))])


def unknown_operator() -> bytes:
    """A well-formed file whose operator nobody implements."""
    node = helper.make_node("Levitate", ["x"], ["z"], domain="example.invalid")
    specs = [tensor(name, "FP32", (1,)) for name in ("x", "z")]
    return model_file([node], specs[:1], specs[1:])


def counting_loop() -> bytes:
    """`z` counts from `x` in as many steps as `y` (INT64 scalar) says: slow on purpose, to be cancelled."""
    step = [
        helper.make_node("Identity", ["more"], ["more_out"]),
        helper.make_node("Add", ["value", "one"], ["value_out"]),
    ]
    body = helper.make_graph(
        step,
        "body",
        [tensor("count", "INT64", ()), tensor("more", "BOOL", ()), tensor("value", "INT64", ())],
        [tensor("more_out", "BOOL", ()), tensor("value_out", "INT64", ())],
    )
    one = numpy_helper.from_array(np.array(1, dtype=np.int64), "one")
    go_on = numpy_helper.from_array(np.array(True), "go_on")
    node = helper.make_node("Loop", ["y", "go_on", "x"], ["z"], body=body)
    inputs = [tensor("x", "INT64", ()), tensor("y", "INT64", ())]
    return model_file([node], inputs, [tensor("z", "INT64", ())], [one, go_on])


def endless_loop() -> bytes:
    """`z = x` (INT64 scalar) after more steps than anybody has time for, whatever the input."""
    model = ModelProto.FromString(counting_loop())
    del model.graph.input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1 << 62, dtype=np.int64), "y"))
    return model.SerializeToString()


def tensor(name: str, datatype: str, shape: Shape) -> ValueInfoProto:
    """The description of an input or output; -1 gives an axis without a name."""
    sizes = [None if size == -1 else size for size in shape]
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[datatype], sizes)


def model_file(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Sequence[TensorProto] = (),
) -> bytes:
    graph: GraphProto = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    # Versions that every ONNX Runtime of the last years reads, whatever the newest onnx package writes.
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("example.invalid", 1)]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return model.SerializeToString()
