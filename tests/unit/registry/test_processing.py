"""What a manifest may say of raw input and of what is made after the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict

from headrace.registry.v1 import manifest_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_registry.inspection import Signature
from headrace_registry.manifest import check_stated, merged

Axes = Sequence[int]
NCHW = (-1, 3, 224, 224)


def tensor(name: str, datatype: str, shape: Axes) -> pb.TensorSpec:
    return pb.TensorSpec(name=name, datatype=datatype, shape=shape)


def vision(shape: Axes = NCHW, datatype: str = "FP32", classes: int = 3) -> Signature:
    return Signature(inputs=[tensor("x", datatype, shape)], outputs=[tensor("z", "FP32", (shape[0], classes))])


def encoder(tokens: int = -1, *names: str) -> Signature:
    names = names or ("input_ids", "attention_mask", "token_type_ids")
    return Signature(
        inputs=[tensor(name, "INT64", (-1, tokens)) for name in names],
        outputs=[tensor("last_hidden_state", "FP32", (-1, tokens, 8)), tensor("pooler_output", "FP32", (-1, 8))],
    )


def registered(model: Signature, files: Sequence[str] = ("tokenizer.json",), /, **fields: Any) -> pb.Manifest:
    stated = ParseDict(fields, pb.Manifest())
    check_stated(stated)
    return merged(stated=stated, artifact_format=pb.ARTIFACT_FORMAT_ONNX, inferred=model, files=files)


def test_picture_processor_is_completed_from_the_tensor() -> None:
    manifest = registered(
        vision(),
        processing={"image": {}, "labels": {"activation": "LABEL_ACTIVATION_SOFTMAX"}},
        classLabels=list("abc"),
    )
    image, labels = manifest.processing.image, manifest.processing.labels
    assert (image.input, image.tensor, image.bytes_max, image.pixels_max) == ("image", "x", 16 << 20, 50_000_000)
    assert (image.color, image.layout) == (pb.IMAGE_COLOR_RGB, pb.IMAGE_LAYOUT_NCHW)
    assert image.resize.stretch == pb.ImageSize(height=224, width=224)
    assert image.resize.interpolation == pb.IMAGE_INTERPOLATION_BILINEAR
    assert image.scale == 1 / 255
    assert not image.HasField("crop")
    assert (labels.labels, labels.scores, labels.tensor, labels.top_k) == ("label", "score", "z", 3)
    assert list(manifest.inputs) == [
        pb.TensorSpec(name="image", datatype="BYTES", shape=[-1], optional=True),
        tensor("x", "FP32", NCHW),
    ]
    assert [spec.name for spec in manifest.outputs] == ["label", "score", "z"]
    assert (manifest.batched, manifest.task) == (True, pb.MODEL_TASK_INFER)
    # A registered manifest can be stated again, for example with the next version.
    assert merged(stated=manifest, artifact_format=pb.ARTIFACT_FORMAT_ONNX, inferred=vision()) == manifest


@pytest.mark.parametrize(
    ("shape", "layout", "color"),
    [
        ((-1, 224, 224, 3), pb.IMAGE_LAYOUT_NHWC, pb.IMAGE_COLOR_RGB),
        ((-1, 1, 28, 28), pb.IMAGE_LAYOUT_NCHW, pb.IMAGE_COLOR_GRAY),
        ((1, 28, 28, 1), pb.IMAGE_LAYOUT_NHWC, pb.IMAGE_COLOR_GRAY),
        ((-1, -1, -1, 3), pb.IMAGE_LAYOUT_NHWC, pb.IMAGE_COLOR_RGB),
        ((-1, -1, -1, -1), pb.IMAGE_LAYOUT_NCHW, pb.IMAGE_COLOR_RGB),
    ],
)
def test_layout_and_colours_follow_the_axes(shape: Axes, layout: int, color: int) -> None:
    resize = {"stretch": {"height": 28, "width": 28}} if shape[2] != 224 else {"shortestSide": 256}
    manifest = registered(vision(shape, "UINT8"), processing={"image": {"resize": resize}})
    image = manifest.processing.image
    assert (image.layout, image.color, image.scale) == (layout, color, 1.0)
    assert list(manifest.inputs[0].shape) == [shape[0]]
    assert image.HasField("crop") == (shape[2] == 224)


def test_encoder_with_text_and_embedding_embeds() -> None:
    manifest = registered(encoder(), processing={"text": {"truncate": True}, "embedding": {}})
    text, embedding = manifest.processing.text, manifest.processing.embedding
    assert (text.input, text.tokenizer, text.ids) == ("text", "tokenizer.json", "input_ids")
    assert (text.attention_mask, text.type_ids) == ("attention_mask", "token_type_ids")
    assert (text.max_length, text.padding, text.bytes_max) == (512, pb.TEXT_PADDING_LONGEST, 1 << 20)
    assert text.special_tokens
    assert text.truncate
    assert (embedding.output, embedding.tensor, embedding.pooling) == (
        "embedding",
        "last_hidden_state",
        pb.POOLING_MEAN,
    )
    assert embedding.normalize
    assert manifest.task == pb.MODEL_TASK_EMBED
    assert manifest.outputs[0] == tensor("embedding", "FP32", (-1, 8))
    other = registered(encoder(), processing={"text": {"input": "query"}, "embedding": {"normalize": False}})
    assert (other.task, other.processing.embedding.normalize) == (pb.MODEL_TASK_INFER, False)
    fixed = registered(encoder(128, "input_ids"), processing={"text": {}}).processing.text
    assert (fixed.max_length, fixed.padding) == (128, pb.TEXT_PADDING_MAX_LENGTH)
    assert (fixed.attention_mask, fixed.type_ids) == ("", "")


IMAGE: dict[str, Any] = {"image": {}}
STRETCH = {"stretch": {"height": 8, "width": 8}}


@pytest.mark.parametrize(
    ("processing", "field"),
    [
        ({}, "processing"),
        ({"image": {"bytesMax": (64 << 20) + 1}}, "processing.image.bytes_max"),
        ({"image": {"pixelsMax": (1 << 26) + 1}}, "processing.image.pixels_max"),
        ({"image": {"color": 9}}, "processing.image.color"),
        ({"image": {"layout": 9}}, "processing.image.layout"),
        ({"image": {"scale": 0}}, "processing.image.scale"),
        ({"image": {"scale": "NaN"}}, "processing.image.scale"),
        ({"image": {"mean": [0.5, "Infinity"]}}, "processing.image.mean[1]"),
        ({"image": {"std": [0.5, 0]}}, "processing.image.std[1]"),
        ({"image": {"resize": {}}}, "processing.image.resize"),
        ({"image": {"resize": {"shortestSide": 8193}}}, "processing.image.resize.shortest_side"),
        ({"image": {"resize": {"stretch": {"height": 8}}}}, "processing.image.resize.stretch.width"),
        ({"image": {"resize": {**STRETCH, "interpolation": 9}}}, "processing.image.resize.interpolation"),
        ({"image": {"resize": STRETCH, "crop": {"height": 8, "width": 9}}}, "processing.image.crop.width"),
        ({"image": {"crop": {"height": 0, "width": 9}}}, "processing.image.crop.height"),
        ({"text": {"maxLength": 131_073}}, "processing.text.max_length"),
        ({"text": {"bytesMax": (16 << 20) + 1}}, "processing.text.bytes_max"),
        ({"text": {"padding": 9}}, "processing.text.padding"),
        ({"embedding": {"pooling": 9}}, "processing.embedding.pooling"),
        ({"labels": {}}, "processing.labels"),
    ],
)
def test_statement_that_can_not_be_right_is_named(processing: dict[str, Any], field: str) -> None:
    with pytest.raises(HeadraceError) as failure:
        check_stated(ParseDict({"processing": processing}, pb.Manifest()))
    assert (failure.value.entry, failure.value.field) == (catalogue.MODEL_MANIFEST_INVALID, f"header.manifest.{field}")


@pytest.mark.parametrize(
    ("model", "fields", "field"),
    [
        (encoder(), {"processing": IMAGE}, "processing.image.tensor"),
        (vision(), {"processing": {"image": {"tensor": "y"}}}, "processing.image.tensor"),
        (vision((-1, 2, 8, 8)), {"processing": IMAGE}, "processing.image.layout"),
        (vision((-1, 3, -1, -1)), {"processing": IMAGE}, "processing.image.resize"),
        (vision((-1, 3, -1, -1)), {"processing": {"image": {"resize": {"shortestSide": 8}}}}, "processing.image.crop"),
        (vision(), {"processing": {"image": {"resize": STRETCH}}}, "processing.image.resize.stretch"),
        (vision(), {"processing": {"image": {"mean": [0.1, 0.2]}}}, "processing.image.mean"),
        (vision(), {"processing": {"image": {"input": "x"}}}, "processing"),
        (vision(), {"processing": {"labels": {}}, "classLabels": ["a"]}, "class_labels"),
        (vision(), {"processing": {"labels": {"scores": "z"}}, "classLabels": list("abc")}, "processing"),
        (vision(), {"processing": {"labels": {"tensor": "y"}}, "classLabels": ["a"]}, "processing.labels.tensor"),
        (vision(), {"processing": {"text": {}}}, "processing.text.ids"),
        (encoder(), {"processing": {"text": {"tokenizer": "vocab.json"}}}, "processing.text.tokenizer"),
        (encoder(), {"processing": {"text": {"attentionMask": "mask"}}}, "processing.text.attention_mask"),
        (encoder(), {"processing": {"text": {"typeIds": "input_ids"}}}, "processing.text.type_ids"),
        (encoder(64), {"processing": {"text": {"maxLength": 32}}}, "processing.text.max_length"),
        (encoder(64), {"processing": {"text": {"padding": "TEXT_PADDING_LONGEST"}}}, "processing.text.padding"),
        (
            encoder(),
            {"processing": {"embedding": {"tensor": "pooler_output", "pooling": "POOLING_CLS"}}},
            "processing.embedding.pooling",
        ),
        (encoder(), {"processing": {"text": {}}, "task": "MODEL_TASK_EMBED"}, "task"),
    ],
)
def test_statement_that_the_model_contradicts_is_named(model: Signature, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(HeadraceError) as failure:
        registered(model, **fields)
    assert (failure.value.entry, failure.value.field) == (catalogue.MODEL_MANIFEST_MISMATCH, f"header.manifest.{field}")


def test_examples_of_the_guide_are_manifests() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "processing.md").read_text()
    classifier, embedder = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL))
    image = registered(vision(classes=len(classifier["classLabels"])), **classifier).processing.image
    assert (image.resize.shortest_side, image.crop.height) == (256, 224)
    assert registered(encoder(), **embedder).task == pb.MODEL_TASK_EMBED


def test_processing_can_not_be_beside_a_sequence() -> None:
    stated = pb.Manifest(sequence=pb.SequencePolicy(states=[pb.SequenceState(input="x", output="z")]))
    stated.processing.image.SetInParent()
    with pytest.raises(HeadraceError) as failure:
        check_stated(stated)
    assert failure.value.field == "header.manifest.processing"
