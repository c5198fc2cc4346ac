"""The models that are measured, as ONNX files, with one request and its answer for each."""

# onnx and its NumPy bridge have incomplete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from inference.open_inference_pb2 import ModelInferRequest

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Weights = dict[str, Array]

# Versions that every ONNX Runtime of the last years reads, whatever the newest onnx package writes.
_OPSET, _IR_VERSION = 18, 9


@dataclass(frozen=True, kw_only=True)
class BenchModel:
    """A model and the row that every request carries.

    Attributes:
        row_shape: Shape of one row of the input `x`, FP32; the batch axis before it is free. The output is `z`.
        batch_rows_max: Rows of one execution in this process; more make the model no faster.
        concurrencies: Requests in flight that are measured.
        targets: What measures it; empty means everything.
        max_batch_size: Rows of one execution in the mesh; 0 leaves it to the mesh.
    """

    name: str
    row_shape: tuple[int, ...]
    batch_rows_max: int
    concurrencies: tuple[int, ...]
    make: Callable[[], bytes]
    targets: tuple[str, ...] = ()
    max_batch_size: int = 0

    @cached_property
    def content(self) -> bytes:
        """The ONNX file."""
        return self.make()

    def rows(self, count: int) -> Array:
        """So many rows, the first of which is the one that requests carry."""
        return np.random.default_rng(1).standard_normal((count, *self.row_shape)).astype(np.float32)

    @cached_property
    def request(self) -> bytes:
        """A ModelInferRequest with one row."""
        row = self.rows(1)
        tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=row.shape)
        message = ModelInferRequest(model_name=self.name, inputs=[tensor], raw_input_contents=[row.tobytes()])
        return message.SerializeToString()


def _tiny() -> bytes:
    """One dense layer of 16 by 16."""
    return _file([helper.make_node("MatMul", ["x", "w"], ["z"])], (16,), (16,), {"w": _random((16, 16))})


def _mlp() -> bytes:
    """784-512-512-10 with ReLU between the layers."""
    sizes = (784, 512, 512, 10)
    nodes: list[NodeProto] = []
    weights: Weights = {}
    value = "x"
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights[f"w{layer}"], weights[f"b{layer}"] = _random((inputs, outputs)), _random((outputs,))
        last = layer == len(sizes) - 2
        dense = "z" if last else f"dense{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [dense]))
        if not last:
            value = f"relu{layer}"
            nodes.append(helper.make_node("Relu", [dense], [value]))
    return _file(nodes, sizes[:1], sizes[-1:], weights)


def _conv() -> bytes:
    """Seven convolutions of 3 by 3 with ReLU on an image of 3 by 224 by 224, global average, 10 classes."""
    channels = (3, 32, 48, 64, 96, 128, 160, 192)
    strides = (2, 1, 2, 1, 2, 1, 2)
    nodes: list[NodeProto] = []
    weights: Weights = {}
    value = "x"
    for layer, ((inputs, outputs), stride) in enumerate(zip(pairwise(channels), strides, strict=True)):
        weights[f"w{layer}"] = _random((outputs, inputs, 3, 3))
        nodes += [
            helper.make_node("Conv", [value, f"w{layer}"], [f"conv{layer}"], strides=[stride] * 2, pads=[1] * 4),
            helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"]),
        ]
        value = f"relu{layer}"
    weights["w"] = _random((channels[-1], 10))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z"]),
    ]
    return _file(nodes, (3, 224, 224), (10,), weights)


def _identity() -> bytes:
    """The output is the input."""
    return _file([helper.make_node("Identity", ["x"], ["z"])], ("size",), ("size",), {})


def _largest() -> bytes:
    """The output is the input's largest element."""
    return _file([helper.make_node("GlobalMaxPool", ["x"], ["z"])], (1, "size"), (1, 1), {})


def _random(shape: tuple[int, ...]) -> Array:
    """Weights of (inputs, outputs), or (outputs, inputs, height, width), that keep the size of what passes through."""
    fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
    return (np.random.default_rng(0).standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def _file(nodes: Sequence[NodeProto], x: Sequence[int | str], z: Sequence[int | str], weights: Weights) -> bytes:
    specs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *row]) for name, row in (("x", x), ("z", z))
    ]
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "graph", specs[:1], specs[1:], initializers)
    opsets = [helper.make_opsetid("", _OPSET)]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return model.SerializeToString()


MLP, MLP_SINGLE = "mlp", "mlp-single"
"""The same model; the mesh may not put rows of the second one together."""

MODELS: dict[str, BenchModel] = {
    model.name: model
    for model in (
        BenchModel(name="tiny", row_shape=(16,), batch_rows_max=32, concurrencies=(1, 16, 64), make=_tiny),
        BenchModel(
            name=MLP,
            row_shape=(784,),
            batch_rows_max=32,
            concurrencies=(1, 16, 64),
            make=_mlp,
            targets=("echo", "in-process", "mesh-unary", "http-infer", "http-open", "mesh-packed"),
        ),
        BenchModel(
            name=MLP_SINGLE,
            row_shape=(784,),
            batch_rows_max=1,
            concurrencies=(64,),
            make=_mlp,
            targets=("mesh-packed",),
            max_batch_size=1,
        ),
        BenchModel(name="conv", row_shape=(3, 224, 224), batch_rows_max=1, concurrencies=(1, 16), make=_conv),
    )
}

# A message has at most 64 MiB, all but its tensor included.
_LARGE_ELEMENTS = (16 << 20) - 1_024

LARGE = BenchModel(name="identity", row_shape=(_LARGE_ELEMENTS,), batch_rows_max=1, concurrencies=(), make=_identity)
"""Not a cell: it shows what a huge tensor does to memory, there and back."""

LARGE_IN = BenchModel(name="largest", row_shape=(1, _LARGE_ELEMENTS), batch_rows_max=1, concurrencies=(), make=_largest)
"""The same, one way."""
