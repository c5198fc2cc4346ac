"""Bodies of `multipart/form-data`, read part by part as they arrive; nothing is kept here. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from headrace_client import failures
from headrace_client.errors import ValidationError
from headrace_common import catalogue
from headrace_gateway.http.failures import failed

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

PARTS_MAX = 64
_BOUNDARY = re.compile(rb"[ -~]{1,70}")
_HEADERS_MAX = 8
_HEADER_BYTES_MAX = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHead:
    """The beginning of a part; its content follows.

    Attributes:
        name: Of the form's field.
        file_name: Without folders; None for a part that is no file.
        content_type: Media type in lower case, without parameters; empty where none is named.
    """

    name: str
    file_name: str | None
    content_type: str


class PartEnd:
    """The end of a part."""


Event = PartHead | bytes | PartEnd


class PartReader:
    """Makes heads, contents and ends of the bytes of a body.

    Args:
        content_type: The request's header.

    Raises:
        HeadraceError: CONTENT_TYPE_UNSUPPORTED, REQUEST_MALFORMED (no boundary).
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            shown = kind.decode("latin-1")[:80]
            raise failed(
                catalogue.CONTENT_TYPE_UNSUPPORTED,
                f"the body must be multipart/form-data, not {shown}",
                context={"contentType": shown},
            )
        boundary = options.get(b"boundary", b"")
        if not _BOUNDARY.fullmatch(boundary):
            raise _malformed("its content type has no boundary of 1 to 70 characters")
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._end,
        }
        self._parser = MultipartParser(
            boundary, callbacks, max_header_count=_HEADERS_MAX, max_header_size=_HEADER_BYTES_MAX
        )
        self._events: list[Event] = []
        self._headers: dict[bytes, bytes] = {}
        self._field = b""
        self._value = b""
        self._parts = 0
        self._whole = False

    def feed(self, content: bytes) -> Sequence[Event]:
        """What the next bytes of the body say.

        Raises:
            ValidationError: REQUEST_MALFORMED.
        """
        try:
            self._parser.write(content)
        except FormParserError as error:
            raise _malformed(str(error)[:200]) from None
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """To be called at the end of the body.

        Raises:
            ValidationError: REQUEST_MALFORMED, it is cut off.
        """
        if not self._whole:
            raise _malformed("it ends before its last boundary")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise _malformed(f"it has more than {PARTS_MAX} parts")
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        try:
            name = options.get(b"name", b"").decode()
            file_name = options[b"filename"].decode() if b"filename" in options else None
        except UnicodeDecodeError:
            raise _malformed("the name of a part is not UTF-8") from None
        if not name:
            raise _malformed("a part has no name")
        if file_name is not None:
            # Some browsers send the whole path, of their system's kind.
            file_name = file_name.replace("\\", "/").rpartition("/")[2]
        kind, _ = parse_options_header(self._headers.get(b"content-type", b""))
        self._events.append(PartHead(name=name, file_name=file_name, content_type=kind.decode("latin-1").lower()))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(bytes(data[start:end]))

    def _end_part(self) -> None:
        self._events.append(PartEnd())

    def _end(self) -> None:
        self._whole = True


def _malformed(why: str) -> ValidationError:
    return ValidationError(f"the multipart body can't be read: {why}", failures.REQUEST_MALFORMED)
