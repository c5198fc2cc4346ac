"""What a model's process writes to standard error: into the log, within bounds, and why it could not load, or ended."""

from __future__ import annotations

import re
from collections import deque

import structlog

from headrace_common.clock import Clock

_LINE_BYTES_MAX = 500
_LINES_KEPT = 50
_LINES_PER_PERIOD = 50
_PERIOD_S = 10.0

_STAMP = re.compile(r"^[\d.]+ [EWI] ")
_REASON = re.compile(r"error loading model: (?P<why>.+)")
_TEMPLATE = re.compile(r"(chat template|jinja)", re.IGNORECASE)
_LAST_WORDS = re.compile(r"GGML_ASSERT|terminate called|what\(\):|failed to allocate|out of memory", re.IGNORECASE)
_PATH = re.compile(r"'?(?:/[^\s'/]+)+/?'?")


class ProcessLog:
    """Reads a stream of lines. One thread.

    Args:
        model: For the log.
    """

    def __init__(self, *, model: str, clock: Clock) -> None:
        self._log = structlog.stdlib.get_logger("llamacpp").bind(model=model)
        self._clock = clock
        self._rest = b""
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._period_from_s = clock.monotonic()
        self._told = 0
        self._tell = self._log.warning

    def loaded(self) -> None:
        """From now on lines may repeat what users wrote, so they are only for those who look for a fault."""
        self._lines.clear()
        self._tell = self._log.debug

    def feed(self, data: bytes) -> None:
        """Takes what was read. A line that is too long loses its end."""
        *lines, rest = (self._rest + data).split(b"\n")
        # One byte more than fits, so that it is seen to be cut.
        self._rest = rest[: _LINE_BYTES_MAX + 1]
        for line in lines:
            self._take(line)

    def end(self) -> None:
        """Takes the last line, which may have no end."""
        rest, self._rest = self._rest, b""
        if rest:
            self._take(rest)

    def load_error(self) -> str:
        """Why the model could not be loaded, without paths; empty where llama.cpp doesn't say."""
        for line in reversed(self._lines):
            if found := _REASON.search(line):
                return _PATH.sub("the file", found["why"]).strip()
        if any(_TEMPLATE.search(line) for line in self._lines):
            return "its chat template can't be used"
        return ""

    def last_words(self) -> str:
        """Why the process gave up by itself; empty where it did not say."""
        return next((line for line in reversed(self._lines) if _LAST_WORDS.search(line)), "")

    def _take(self, line: bytes) -> None:
        text = _STAMP.sub("", line[:_LINE_BYTES_MAX].decode(errors="replace").strip())
        if not text:
            return
        self._lines.append(text)
        now_s = self._clock.monotonic()
        if now_s - self._period_from_s >= _PERIOD_S:
            if self._told > _LINES_PER_PERIOD:
                self._log.warning("lines left out", lines=self._told - _LINES_PER_PERIOD)
            self._period_from_s, self._told = now_s, 0
        self._told += 1
        if self._told <= _LINES_PER_PERIOD:
            self._tell("llama.cpp", line=text)
