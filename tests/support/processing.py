"""Photographs, word vectors with their tokenizer, and models for them, for tests of what runners do around models.

The data ships in public wheels: scikit-learn's two photographs, and wordllama's vectors of Llama 2's tokens.
"""

# onnx has incomplete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import ParseDict
from numpy.typing import NDArray
from onnx import TensorProto, helper, load_from_string, numpy_helper
from PIL import Image

from headrace.registry.v1 import manifest_pb2 as pb
from headrace_registry.inspection import Signature
from headrace_registry.manifest import check_stated, merged
from support.onnx_models import ELEMENT_TYPES, model_file, tensor

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
TEXTS = (
    "The river that turns the mill comes down the head race.",
    "Über Flüsse und Mühlen, 水車小屋.",
    "short",
    "A runner loads models, and answers calls: one after another, or many at once. " * 4,
)
_DATATYPES = {number: name for name, number in ELEMENT_TYPES.items()}


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None and spec.submodule_search_locations, f"{name} is not installed: make setup"
    return Path(spec.submodule_search_locations[0])


def photograph(name: str = "china.jpg") -> bytes:
    """A photograph of 640 by 427 pixels, a JPEG file."""
    return (_package("sklearn") / "datasets" / "images" / name).read_bytes()


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@cache
def tokenizer_file() -> bytes:
    """A real tokenizer of 32,000 tokens."""
    return (_package("wordllama") / "tokenizers" / "l2_supercat_tokenizer_config.json").read_bytes()


@cache
def word_vectors() -> NDArray[np.float16]:
    """A vector of 256 numbers for each of its tokens."""
    data = (_package("wordllama") / "weights" / "l2_supercat_256.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    (stated,) = (value for key, value in json.loads(data[8:start]).items() if key != "__metadata__")
    assert stated["dtype"] == "F16"
    first, last = stated["data_offsets"]
    return np.frombuffer(data[start + first : start + last], np.float16).reshape(stated["shape"])


def word_encoder() -> bytes:
    """`last_hidden_state`: the vector of each token, FP32; for `input_ids` and an `attention_mask` that it ignores."""
    table = numpy_helper.from_array(word_vectors(), "table")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["half"]),
        helper.make_node("Cast", ["half"], ["last_hidden_state"], to=TensorProto.FLOAT),
    ]
    inputs = [tensor(name, "INT64", ("batch", "tokens")) for name in ("input_ids", "attention_mask")]
    return model_file(nodes, inputs, [tensor("last_hidden_state", "FP32", ("batch", "tokens", 256))], [table])


def brightness_model(side: int = 32) -> bytes:
    """`z`: the mean of each of the three channels of `x`, FP32 (batch, 3, side, side)."""
    node = helper.make_node("ReduceMean", ["x", "axes"], ["z"], keepdims=0)
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    return model_file(
        [node], [tensor("x", "FP32", ("batch", 3, side, side))], [tensor("z", "FP32", ("batch", 3))], [axes]
    )


def registered(content: bytes, fields: Mapping[str, Any], *files: str) -> pb.Manifest:
    """The manifest of an ONNX file as the registry completes it."""
    graph = load_from_string(content).graph
    stated = ParseDict(dict(fields), pb.Manifest())
    check_stated(stated)
    signature = Signature(
        inputs=[_spec(value) for value in graph.input], outputs=[_spec(value) for value in graph.output]
    )
    return merged(stated=stated, artifact_format=pb.ARTIFACT_FORMAT_ONNX, inferred=signature, files=files)


def elements(*contents: bytes) -> NDArray[Any]:
    """A BYTES tensor."""
    array = np.empty(len(contents), dtype=object)
    array[:] = contents
    return array


def _spec(value: Any) -> pb.TensorSpec:
    kind = value.type.tensor_type
    shape = [axis.dim_value or -1 for axis in kind.shape.dim]
    return pb.TensorSpec(name=value.name, datatype=_DATATYPES[kind.elem_type], shape=shape)
