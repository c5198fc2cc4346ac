"""Format and size of an encoded picture, read from its first bytes. Nothing is decoded. Pure."""

from __future__ import annotations

from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"
# Cameras write a few dozen segments before the picture; a file of nothing else must not cost time.
_SEGMENTS_MAX = 4_096
# A progressive picture comes in about ten scans; each costs time by the pixel, however few bytes it has.
_SCANS_MAX = 64
# Programs write one for each 8 KiB of pixels; a decoder takes each of them for some microseconds, pixels or not.
_CHUNKS_MAX = 1 << 16
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


class ImageHeader(NamedTuple):
    """What a file says of its picture: `PNG`, `JPEG` or `WEBP`, and pixels."""

    format: str
    width: int
    height: int


class NotAnImage(Exception):
    """Why a file is no picture that is taken, in words for the caller, to follow 'it'."""


def read_header(data: bytes) -> ImageHeader:
    """What the file says of itself, whatever anybody calls it. Costs no time by the pixel.

    Raises:
        NotAnImage: Another format, or the size is missing.

    Source: PNG (ISO/IEC 15948) 11.2.2; JPEG (ITU-T T.81) annex B; RFC 9649, WebP Image Format.
    """
    if data.startswith(_PNG):
        header = _png(data)
    elif data.startswith(_JPEG):
        header = _jpeg(data)
        if data.count(_SCAN) > _SCANS_MAX:
            raise NotAnImage(f"has more than {_SCANS_MAX} scans")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = _webp(data)
    else:
        raise NotAnImage("is no PNG, JPEG or WebP file" if data else "is empty")
    if header is None or not header.width or not header.height:
        raise NotAnImage("is broken: it does not say how large its picture is")
    return header


def _png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    position, chunks = len(_PNG), 0
    while position < len(data):
        position += 12 + int.from_bytes(data[position : position + 4])
        chunks += 1
        if chunks > _CHUNKS_MAX:
            raise NotAnImage(f"has more than {_CHUNKS_MAX} chunks")
    return ImageHeader("PNG", int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))


def _jpeg(data: bytes) -> ImageHeader | None:
    """Goes from segment to segment to the one that begins the picture."""
    position = 2
    for _ in range(_SEGMENTS_MAX):
        if data[position : position + 1] != b"\xff":
            return None
        while data[position : position + 1] == b"\xff":
            position += 1
        marker = data[position] if position < len(data) else 0
        position += 1
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(data[position : position + 2])
        if marker in _FRAMES:
            if position + 7 > len(data):
                return None
            return ImageHeader(
                "JPEG",
                height=int.from_bytes(data[position + 3 : position + 5]),
                width=int.from_bytes(data[position + 5 : position + 7]),
            )
        # 0xD9 ends the file, 0xDA begins the pixels.
        if length < 2 or marker in (0xD9, 0xDA):
            return None
        position += length
    return None


def _webp(data: bytes) -> ImageHeader | None:
    if len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return ImageHeader(
                "WEBP", int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
            )
        case b"VP8L" if data[20] == 0x2F:
            bits = int.from_bytes(data[21:25], "little")
            return ImageHeader("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = (int.from_bytes(data[start : start + 2], "little") & 0x3FFF for start in (26, 28))
            return ImageHeader("WEBP", width, height)
        case _:
            return None
