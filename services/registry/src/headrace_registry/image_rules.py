"""What a manifest may say of pictures as raw input. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headrace.registry.v1.manifest_pb2 import (
    IMAGE_COLOR_GRAY,
    IMAGE_COLOR_RGB,
    IMAGE_COLOR_UNSPECIFIED,
    IMAGE_INTERPOLATION_BILINEAR,
    IMAGE_LAYOUT_NCHW,
    IMAGE_LAYOUT_NHWC,
    IMAGE_LAYOUT_UNSPECIFIED,
    ImageColor,
    ImageInterpolation,
    ImageLayout,
    ImageProcessor,
    ImageSize,
    TensorSpec,
)
from headrace_registry.field_rules import TEXT_CHARS_MAX
from headrace_registry.manifest_faults import mismatch, wrong
from headrace_registry.tensor_rules import ELEMENTS_MAX

IMAGE = "image"
SIDE_MAX = 8_192
BYTES_DEFAULT = 16 << 20
BYTES_MAX = 64 << 20
PIXELS_DEFAULT = 50_000_000
PIXELS_MAX = 1 << 26

_FIELD = "processing.image"
_FLOATS = ("BF16", "FP16", "FP32", "FP64")
_CHANNEL_AXIS = {IMAGE_LAYOUT_NCHW: 1, IMAGE_LAYOUT_NHWC: 3}


def check_image(image: ImageProcessor) -> None:
    """Refuses what can't be right whatever the model's tensors are.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT).
    """
    if image.bytes_max > BYTES_MAX:
        raise wrong(f"{_FIELD}.bytes_max", f"is {image.bytes_max}, at most {BYTES_MAX} is allowed")
    if image.pixels_max > PIXELS_MAX:
        raise wrong(f"{_FIELD}.pixels_max", f"is {image.pixels_max}, at most {PIXELS_MAX} is allowed")
    for name, value, kind in (
        ("color", image.color, ImageColor),
        ("layout", image.layout, ImageLayout),
        ("resize.interpolation", image.resize.interpolation, ImageInterpolation),
    ):
        if value not in kind.values():
            raise wrong(f"{_FIELD}.{name}", f"is {value}, it must be one of {', '.join(kind.keys())}")
    if image.HasField("resize"):
        match image.resize.WhichOneof("to"):
            case "stretch":
                _check_size("resize.stretch", image.resize.stretch)
            case "shortest_side":
                _check_side("resize.shortest_side", image.resize.shortest_side)
            case _:
                raise wrong(f"{_FIELD}.resize", "must have one of `stretch` and `shortest_side`")
    if image.HasField("crop"):
        _check_size("crop", image.crop)
        _check_crop(image)
    _check_numbers(image)


def complete_image(image: ImageProcessor, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Fills in what follows from the model's tensor; the raw input.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT).
    """
    spec = _tensor(image, inputs)
    image.input = image.input or IMAGE
    image.tensor = spec.name
    image.bytes_max = image.bytes_max or BYTES_DEFAULT
    image.pixels_max = image.pixels_max or PIXELS_DEFAULT
    _complete_axes(image, spec)
    _complete_size(image, spec)
    if image.HasField("resize"):
        image.resize.interpolation = image.resize.interpolation or IMAGE_INTERPOLATION_BILINEAR
    if not image.HasField("scale"):
        image.scale = 1 / 255 if spec.datatype in _FLOATS else 1.0
    channels = _channels(image.color)
    for name, values in (("mean", image.mean), ("std", image.std)):
        if len(values) not in (0, 1, channels):
            raise mismatch(f"{_FIELD}.{name}", f"has {len(values)} numbers, the picture has {channels} channels")
    return TensorSpec(name=image.input, datatype="BYTES", shape=spec.shape[:1], optional=True)


def _check_numbers(image: ImageProcessor) -> None:
    if image.HasField("scale") and (not math.isfinite(image.scale) or image.scale == 0):
        raise wrong(f"{_FIELD}.scale", f"is {image.scale:g}, it must be a number that is not 0")
    for name, values in (("mean", image.mean), ("std", image.std)):
        for index, value in enumerate(values):
            if not math.isfinite(value) or (name == "std" and value == 0):
                raise wrong(
                    f"{_FIELD}.{name}[{index}]",
                    f"is {value:g}, it must be a number" + " that is not 0" * (name == "std"),
                )


def _check_size(name: str, size: ImageSize) -> None:
    _check_side(f"{name}.height", size.height)
    _check_side(f"{name}.width", size.width)


def _check_side(name: str, side: int) -> None:
    if not 1 <= side <= SIDE_MAX:
        raise wrong(f"{_FIELD}.{name}", f"is {side}, it must be 1 to {SIDE_MAX} pixels")


def _check_crop(image: ImageProcessor) -> None:
    if not image.HasField("resize"):
        return
    resize, crop = image.resize, image.crop
    side = resize.shortest_side
    height, width = (side, side) if side else (resize.stretch.height, resize.stretch.width)
    for name, mine, available in (("height", crop.height, height), ("width", crop.width, width)):
        if mine > available:
            raise wrong(f"{_FIELD}.crop.{name}", f"is {mine}, after the resize there are only {available} pixels")


def _tensor(image: ImageProcessor, inputs: Sequence[TensorSpec]) -> TensorSpec:
    fitting = [spec for spec in inputs if len(spec.shape) == 4 and spec.datatype not in ("BOOL", "BYTES")]
    if image.tensor:
        fitting = [spec for spec in fitting if spec.name == image.tensor]
        if not fitting:
            raise mismatch(
                f"{_FIELD}.tensor",
                f"is '{image.tensor[:TEXT_CHARS_MAX]}', the model has no such numeric input with four axes",
            )
    if len(fitting) != 1:
        raise mismatch(
            f"{_FIELD}.tensor", f"must be stated: the model has {len(fitting)} numeric inputs with four axes"
        )
    return fitting[0]


def _channels(color: ImageColor.ValueType) -> int:
    return 1 if color == IMAGE_COLOR_GRAY else 3


def _complete_axes(image: ImageProcessor, spec: TensorSpec) -> None:
    """Finds layout and colours: an axis that has just the channels comes before one that is free."""
    layouts = [image.layout] if image.layout != IMAGE_LAYOUT_UNSPECIFIED else [IMAGE_LAYOUT_NCHW, IMAGE_LAYOUT_NHWC]
    colors = [image.color] if image.color != IMAGE_COLOR_UNSPECIFIED else [IMAGE_COLOR_RGB, IMAGE_COLOR_GRAY]
    for free in (False, True):
        for layout in layouts:
            for color in colors:
                if spec.shape[_CHANNEL_AXIS[layout]] == (-1 if free else _channels(color)):
                    image.layout = layout
                    image.color = color
                    return
    raise mismatch(f"{_FIELD}.layout", f"or `color` doesn't fit: '{spec.name}' has the shape {list(spec.shape)}")


def _complete_size(image: ImageProcessor, spec: TensorSpec) -> None:
    rows_axis = 2 if image.layout == IMAGE_LAYOUT_NCHW else 1
    height, width = spec.shape[rows_axis], spec.shape[rows_axis + 1]
    fixed = height > 0 and width > 0
    if not image.HasField("resize") and not image.HasField("crop"):
        if not fixed:
            raise mismatch(f"{_FIELD}.resize", f"is required, because the size that '{spec.name}' takes is free")
        image.resize.stretch.CopyFrom(ImageSize(height=height, width=width))
    elif image.resize.shortest_side and not image.HasField("crop"):
        if not fixed:
            raise mismatch(f"{_FIELD}.crop", f"is required, because the size that '{spec.name}' takes is free")
        image.crop.CopyFrom(ImageSize(height=height, width=width))
        _check_crop(image)
    name, size = ("crop", image.crop) if image.HasField("crop") else ("resize.stretch", image.resize.stretch)
    if height not in (-1, size.height) or width not in (-1, size.width):
        raise mismatch(
            f"{_FIELD}.{name}", f"gives {[size.height, size.width]} pixels, '{spec.name}' takes {[height, width]}"
        )
    if size.height * size.width * _channels(image.color) > ELEMENTS_MAX:
        raise mismatch(f"{_FIELD}.{name}", f"makes more than {ELEMENTS_MAX} elements of a picture")
