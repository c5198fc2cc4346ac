"""Pictures to tensors."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry
from headrace_common.errors import DeviceError, TensorError
from headrace_runner.processing.image_header import NotAnImage, read_header
from headrace_runner.processing.raw_input import Made, element_error
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.signature import RawInput, TensorSpec

_RESAMPLING = {
    manifest_pb2.IMAGE_INTERPOLATION_NEAREST: Image.Resampling.NEAREST,
    manifest_pb2.IMAGE_INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    manifest_pb2.IMAGE_INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
    manifest_pb2.IMAGE_INTERPOLATION_LANCZOS: Image.Resampling.LANCZOS,
}
# Opened by name: `Image.open` would try what else it knows, and look for plug-ins first.
_DECODERS = {"PNG": PngImageFile, "JPEG": JpegImageFile, "WEBP": WebPImageFile}


class ImageReader:
    """Decodes, resizes, crops and normalises pictures. A `RawReader`.

    Args:
        policy: How, complete.
        spec: The model's input that they become.
    """

    def __init__(self, *, policy: manifest_pb2.ImageProcessor, spec: TensorSpec) -> None:
        self._policy = policy
        self._tensor = spec.name
        self._datatype = spec.datatype
        self._first = policy.layout == manifest_pb2.IMAGE_LAYOUT_NCHW
        self._channels = 1 if policy.color == manifest_pb2.IMAGE_COLOR_GRAY else 3
        self._size = policy.crop if policy.HasField("crop") else policy.resize.stretch
        self.raw = RawInput(TensorSpec(policy.input, "BYTES", spec.shape[:1], optional=True), frozenset({spec.name}))
        wide = np.dtype(np.float64 if spec.datatype == "FP64" else np.float32)
        divisor = _by_channel(policy.std, 1.0, self._channels)
        factor = policy.scale / divisor
        offset = _by_channel(policy.mean, 0.0, self._channels) / divisor
        shape = (-1, 1, 1) if self._first else (-1,)
        self._factor: Array = factor.astype(wide).reshape(shape)
        self._offset: Array = offset.astype(wide).reshape(shape)
        # Elements are numbers from 0 to 255 already.
        self._plain = spec.datatype == "UINT8" and bool((factor == 1).all()) and not offset.any()

    @property
    def row_bytes(self) -> int:
        item_bytes = DATATYPES[self._datatype].item_bytes
        return self._size.height * self._size.width * self._channels * item_bytes

    def read(self, elements: Sequence[bytes]) -> list[Array]:
        """One array for each file, in the tensor's layout and datatype, without its first axis.

        Raises:
            TensorError: IMAGE_INVALID (INVALID_ARGUMENT) or IMAGE_TOO_LARGE (RESOURCE_EXHAUSTED).
            DeviceError: DEVICE_OUT_OF_MEMORY (RESOURCE_EXHAUSTED).
        """
        return [self._normalised(self._sized(index, self._decoded(index, data))) for index, data in enumerate(elements)]

    def join(self, rows: Sequence[Array]) -> Made:
        return Made({self._tensor: np.stack(rows)}, None)

    def _decoded(self, index: int, data: bytes) -> Image.Image:
        """The picture upright, in its channels. What it says of itself is checked before anything is decoded."""
        policy = self._policy
        if len(data) > policy.bytes_max:
            raise self._too_large(index, len(data), policy.bytes_max, "bytes")
        try:
            header = read_header(data)
        except NotAnImage as failure:
            raise self._error(index, str(failure), catalogue.IMAGE_INVALID) from None
        self._check_pixels(index, header.width, header.height)
        try:
            with _DECODERS[header.format](io.BytesIO(data)) as opened:
                if opened.size != (header.width, header.height):
                    raise self._error(index, "is broken: it has two sizes", catalogue.IMAGE_INVALID)
                opened.load()
                picture = _upright(_eight_bits(opened))
                return picture.convert("L" if self._channels == 1 else "RGB")
        except TensorError:
            raise
        except MemoryError:
            raise DeviceError(
                "the runner has no memory left to decode a picture",
                entry=catalogue.DEVICE_OUT_OF_MEMORY,
                context={"device": "cpu"},
            ) from None
        except Exception:  # noqa: BLE001 - decoders raise a dozen unrelated classes
            raise self._error(
                index, f"is a broken or truncated {header.format} file", catalogue.IMAGE_INVALID
            ) from None

    def _sized(self, index: int, picture: Image.Image) -> Image.Image:
        policy = self._policy
        if policy.HasField("resize"):
            stretch = policy.resize.stretch
            size = (stretch.width, stretch.height)
            if policy.resize.shortest_side:
                size = _shortest_side(picture.size, policy.resize.shortest_side)
                # A line of a few pixels would become an endless one.
                self._check_pixels(index, *size)
            if size != picture.size:
                picture = picture.resize(size, _RESAMPLING[policy.resize.interpolation])
        if policy.HasField("crop"):
            picture = self._cropped(index, picture)
        return picture

    def _cropped(self, index: int, picture: Image.Image) -> Image.Image:
        width, height = self._policy.crop.width, self._policy.crop.height
        if picture.width < width or picture.height < height:
            raise self._error(
                index,
                f"has {picture.height} rows and {picture.width} columns, the model takes {height} and {width} of them",
                catalogue.IMAGE_INVALID,
            )
        left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
        return picture.crop((left, top, left + width, top + height))

    def _normalised(self, picture: Image.Image) -> Array:
        pixels: Array = np.asarray(picture, dtype=np.uint8)
        if self._channels == 1:
            pixels = pixels[..., np.newaxis]
        elif self._policy.color == manifest_pb2.IMAGE_COLOR_BGR:
            pixels = pixels[..., ::-1]
        if self._first:
            pixels = pixels.transpose(2, 0, 1)
        if self._plain:
            return np.ascontiguousarray(pixels)
        made: Array = pixels.astype(self._factor.dtype, order="C")
        made *= self._factor
        made -= self._offset
        return _as_datatype(made, self._datatype)

    def _check_pixels(self, index: int, width: int, height: int) -> None:
        if width * height > self._policy.pixels_max:
            raise self._too_large(index, width * height, self._policy.pixels_max, "pixels")

    def _too_large(self, index: int, actual: int, limit: int, what: str) -> TensorError:
        complaint = f"has {actual} {what}, the model takes {limit}"
        return self._error(index, complaint, catalogue.IMAGE_TOO_LARGE, limit=limit, actual=actual)

    def _error(
        self, index: int, complaint: str, entry: CatalogueEntry, *, limit: int | None = None, actual: int = 0
    ) -> TensorError:
        return element_error(self._policy.input, index, complaint, entry, limit=limit, actual=actual)


def _by_channel(values: Sequence[float], absent: float, channels: int) -> Array:
    return np.resize(np.array(list(values) or [absent], dtype=np.float64), channels)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Greys of 16 bits as their upper 8; conversion would cut all but the darkest off."""
    if not picture.mode.startswith("I"):
        return picture
    wide: Array = np.asarray(picture)
    return Image.fromarray((wide.astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says, if it can be read: other programs show the picture, too."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 - broken metadata of a picture that is whole
        return picture


def _shortest_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _as_datatype(made: Array, datatype: str) -> Array:
    if datatype == "BF16":
        # The upper half of the bits, rounded to the nearest, to even ones where two are as near.
        bits: Array = made.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    dtype = DATATYPES[datatype].dtype
    if dtype.kind == "f":
        return made.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    # The largest float below a limit that floats don't have.
    lowest, highest = float(limits.min), math.nextafter(float(limits.max), 0) if limits.bits > 16 else float(limits.max)
    return np.rint(made.astype(np.float64)).clip(lowest, highest).astype(dtype)
