"""Takes the events out of a stream of server-sent events."""

from __future__ import annotations

import json
from typing import Any, cast

_PREFIX = b"data: "
_EVENT_BYTES_MAX = 8 << 20
# `json.loads` looks for other encodings and for white space first, which takes longer than an event.
_decode = json.JSONDecoder().raw_decode


class StreamMalformed(Exception):
    """What came is no stream of events."""


class EventReader:
    """Reads one stream. Comments, which llama.cpp sends to find out whether anybody listens, are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The events that are complete with these bytes.

        Raises:
            StreamMalformed: An event is no JSON object, or too large.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _EVENT_BYTES_MAX:
            raise StreamMalformed("an event is too large")
        return [_event(line) for line in lines if line.startswith(_PREFIX)]


def _event(line: bytes) -> dict[str, Any]:
    try:
        text = line[len(_PREFIX) :].decode()
        event, end = _decode(text)
    except (ValueError, RecursionError):
        raise StreamMalformed("an event is no JSON") from None
    if end != len(text) or not isinstance(event, dict):
        raise StreamMalformed("an event is no object")
    return cast("dict[str, Any]", event)
