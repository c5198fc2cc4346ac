"""Pictures to tensors: what comes out equals Pillow and NumPy called directly, and nothing that is sent does harm."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFile, ImageOps

from headrace.registry.v1 import manifest_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import TensorError
from headrace_registry.image_rules import check_image, complete_image
from headrace_runner.processing.image_header import NotAnImage, read_header
from headrace_runner.processing.images import ImageReader
from headrace_runner.tensors.signature import TensorSpec
from support.processing import PHOTOGRAPHS, encoded, photograph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def reader(shape: tuple[int, ...] = (-1, 3, 32, 32), datatype: str = "FP32", **fields: Any) -> ImageReader:
    """A reader by a policy that the registry has checked and completed."""
    policy = ParseDict(fields, pb.ImageProcessor())
    check_image(policy)
    complete_image(policy, [pb.TensorSpec(name="x", datatype=datatype, shape=shape)])
    return ImageReader(policy=policy, spec=TensorSpec("x", datatype, shape))


def read(one: ImageReader, data: bytes) -> NDArray[Any]:
    return one.join(one.read([data])).inputs["x"][0]


def failure_of(one: ImageReader, data: bytes) -> TensorError:
    with pytest.raises(TensorError) as failure:
        one.read([data])
    return failure.value


def opened(data: bytes) -> Image.Image:
    import io

    return Image.open(io.BytesIO(data))


def drawing(mode: str = "RGB", size: tuple[int, int] = (48, 40)) -> Image.Image:
    picture = Image.new("RGB", size, (200, 30, 90))
    ImageDraw.Draw(picture).polygon([(2, 3), (40, 9), (21, 35)], fill=(10, 220, 60))
    return picture.convert(mode)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photograph_becomes_what_image_models_are_trained_with(name: str) -> None:
    made = read(reader((-1, 3, 224, 224), resize={"shortestSide": 256}, mean=MEAN, std=STD), photograph(name))
    picture = opened(photograph(name)).convert("RGB").resize((int(256 * 640 / 427), 256), Image.Resampling.BILINEAR)
    left, top = round((picture.width - 224) / 2), 16
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float64) / 255
    expected = ((pixels - MEAN) / STD).transpose(2, 0, 1)
    assert (made.dtype, made.shape) == (np.float32, (3, 224, 224))
    np.testing.assert_allclose(made, expected, atol=2e-6)


def test_datatypes_layouts_and_colours() -> None:
    data, stretched = photograph(), opened(photograph()).convert("RGB")
    pixels = np.asarray(stretched.resize((32, 24), Image.Resampling.LANCZOS))
    lanczos = {"stretch": {"height": 24, "width": 32}, "interpolation": "IMAGE_INTERPOLATION_LANCZOS"}
    plain = read(reader((-1, 24, 32, 3), "UINT8", resize=lanczos), data)
    np.testing.assert_array_equal(plain, pixels)
    bgr = read(reader((-1, -1, -1, 3), "UINT8", resize=lanczos, color="IMAGE_COLOR_BGR"), data)
    np.testing.assert_array_equal(bgr, pixels[..., ::-1])
    half = read(reader((-1, 3, 24, 32), "FP16", resize=lanczos), data)
    np.testing.assert_array_equal(half, (pixels.transpose(2, 0, 1) * np.float32(1 / 255)).astype(np.float16))
    signed = read(reader((-1, 24, 32, 3), "INT8", resize=lanczos, mean=[128]), data)
    np.testing.assert_array_equal(signed, pixels.astype(np.int16) - 128)
    brain = read(reader((-1, 3, 24, 32), "BF16", resize=lanczos, scale=1.0, mean=[0.5]), data)
    values = (brain.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(values, pixels.transpose(2, 0, 1) - 0.5, rtol=1 / 256)
    grey = read(reader((-1, 1, 32, 32), "FP64"), data)
    expected = np.asarray(opened(data).convert("L").resize((32, 32), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(grey[0], expected, rtol=1e-12)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_kind_of_png_is_brought_to_the_channels(mode: str) -> None:
    one = reader((-1, 40, 48, 3), "UINT8")
    if mode == "I;16":
        wide = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48) * 34
        data, expected = encoded(Image.fromarray(wide), "PNG"), np.repeat((wide >> 8)[..., np.newaxis], 3, axis=2)
    else:
        picture = drawing(mode)
        data, expected = encoded(picture, "PNG"), np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read(one, data), expected)


def test_formats_are_told_by_content_and_lose_nothing() -> None:
    one, picture = reader((-1, 40, 48, 3), "UINT8"), drawing()
    for data in (encoded(picture, "PNG"), encoded(picture, "WEBP", lossless=True)):
        np.testing.assert_array_equal(read(one, data), np.asarray(picture))
    cmyk = encoded(picture.convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_array_equal(read(one, cmyk), np.asarray(opened(cmyk).convert("RGB")))
    frames = [drawing(), Image.new("RGB", (48, 40))]
    for kind in ("PNG", "WEBP"):
        animated = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **{"lossless": True} if kind == "WEBP" else {}
        )
        np.testing.assert_array_equal(read(one, animated), np.asarray(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_cameras_say(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    one = reader((-1, 40, 48, 3), "UINT8")
    for kind, options in (("JPEG", {"quality": 100}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(drawing(), kind, exif=exif, **options)
        upright = ImageOps.exif_transpose(opened(data)).convert("RGB")
        expected = upright if upright.size == (48, 40) else upright.resize((48, 40), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(read(one, data), np.asarray(expected))


def bomb(side: int = 50_000, bytes_: int = 1_000) -> bytes:
    """A PNG file that says that it is that large, in about a kilobyte."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(side * 100), 9)[:bytes_]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_image_bomb_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(*_: object, **__: object) -> None:
        pytest.fail("it was opened")

    monkeypatch.setattr(ImageFile.ImageFile, "__init__", opens)
    data = bomb()
    assert len(data) < 1_100
    failure = failure_of(reader(), data)
    assert failure.entry == catalogue.IMAGE_TOO_LARGE
    assert failure.context == {"tensor": "image", "element": 0, "limit": 50_000_000, "actual": 2_500_000_000}
    failure = failure_of(reader(bytesMax=100), encoded(drawing(), "PNG"))
    assert (failure.entry, failure.context["limit"]) == (catalogue.IMAGE_TOO_LARGE, 100)
    # Scans that cost time by the pixel and have few bytes.
    progressive = encoded(drawing(), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    failure = failure_of(reader(), progressive[:-2] + scan * 60 + progressive[-2:])
    assert (failure.entry, "scans" in failure.message) == (catalogue.IMAGE_INVALID, True)
    whole = encoded(drawing(), "PNG")
    empty = b"\0\0\0\0abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    failure = failure_of(reader(), whole[:33] + empty * 70_000 + whole[33:])
    assert (failure.entry, "chunks" in failure.message) == (catalogue.IMAGE_INVALID, True)
    # A WebP canvas of 16,384 by 16,384 pixels around a tiny picture.
    canvas = encoded(drawing("RGBA"), "WEBP", save_all=True, append_images=[Image.new("RGBA", (48, 40))])
    assert canvas[12:16] == b"VP8X"
    canvas = canvas[:24] + b"\xff\x3f\x00\xff\x3f\x00" + canvas[30:]
    assert failure_of(reader(), canvas).entry == catalogue.IMAGE_TOO_LARGE


def test_thin_line_does_not_become_an_endless_one() -> None:
    line = encoded(Image.new("RGB", (1, 60_000)), "PNG")
    one = reader((-1, 3, 224, 224), resize={"shortestSide": 256})
    failure = failure_of(one, line)
    assert (failure.entry, failure.context["actual"]) == (catalogue.IMAGE_TOO_LARGE, 256 * 256 * 60_000)


def test_what_is_no_whole_picture_is_refused_by_its_place() -> None:
    one = reader()
    whole = encoded(drawing(), "PNG")
    wrong = {
        "empty": b"",
        "text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "gif": encoded(drawing("P"), "GIF"),
        "bmp": encoded(drawing(), "BMP"),
        "tiff": encoded(drawing(), "TIFF"),
        "gif called png": b"\x89PNG\r\n\x1a\n" + encoded(drawing("P"), "GIF"),
        "webp called jpeg": b"\xff\xd8\xff" + encoded(drawing(), "WEBP"),
        "no size": bomb(0),
    }
    for kind in ("PNG", "JPEG", "WEBP"):
        data = encoded(drawing(), kind)
        wrong |= {f"{kind} cut at {part}": data[: len(data) * part // 8] for part in range(1, 8)}
    for what, data in wrong.items():
        with pytest.raises(TensorError) as failure:
            one.read([whole, data])
        assert (failure.value.entry, failure.value.context["element"]) == (catalogue.IMAGE_INVALID, 1), what
    failure = failure_of(reader((-1, 3, 64, 64), crop={"height": 64, "width": 64}), whole)
    assert failure.entry == catalogue.IMAGE_INVALID
    assert "40 rows" in failure.message


FILES = [
    encoded(drawing(), "PNG"),
    encoded(drawing(), "JPEG"),
    encoded(drawing(), "WEBP"),
    encoded(drawing("RGBA"), "WEBP"),
]


@settings(max_examples=150)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 255)), max_size=8), st.data())
def test_damaged_files_are_read_or_refused(file: bytes, damage: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(file[: data.draw(st.integers(0, len(file)))])
    for place, value in damage:
        if damaged:
            damaged[place % len(damaged)] = value
    try:
        assert read(reader(), bytes(damaged)).shape == (3, 32, 32)
    except TensorError as failure:
        assert failure.entry in (catalogue.IMAGE_INVALID, catalogue.IMAGE_TOO_LARGE)


@given(
    st.binary(max_size=64),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF1234WEBP", b"RIFF1234WEBPVP8X"]),
)
def test_headers_of_anything_are_read_or_refused(rest: bytes, start: bytes) -> None:
    try:
        header = read_header(start + rest)
    except NotAnImage:
        return
    assert header.width > 0
    assert header.height > 0


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (48, 40), (333, 7)])
def test_headers_say_the_size_that_decoders_find(kind: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    data = encoded(drawing(size=size), kind, **options)
    assert read_header(data) == (kind, *size)
