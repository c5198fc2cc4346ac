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
# What llama.cpp says, and what of it people are told. Its own words may have paths, and whatever is in the file.
_REASONS = (
    (re.compile(r"chat template|jinja", re.IGNORECASE), "its chat template can't be used"),
    (
        re.compile(r"not within the file bounds|corrupted or incomplete|failed to read"),
        "the file is cut off or damaged",
    ),
    (re.compile(r"has invalid data|nan|quantized data validation"), "the file's weights are damaged"),
    (re.compile(r"unknown (model architecture|pre-tokenizer|tokenizer)"), "llama.cpp doesn't know this kind of model"),
    (re.compile(r"missing tensor|wrong number of tensors|wrong shape|key not found"), "the file lacks something of it"),
    (re.compile(r"failed to allocate|out of memory|bad_alloc", re.IGNORECASE), "the memory does not suffice"),
    (re.compile(r"error loading model"), "the file can't be used; the runner's log says more"),
)
# Where llama.cpp itself ends the process; other last words may be of a request.
_LAST_WORDS = re.compile(r"GGML_ASSERT\([^\n]{0,200}\) failed|failed to allocate|out of memory", re.IGNORECASE)


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

    def feed(self, data: bytes) -> bool:
        """Takes what was read; returns whether there is any. A line that is too long loses its end."""
        *lines, rest = (self._rest + data).split(b"\n")
        # One byte more than fits, so that it is seen to be cut.
        self._rest = rest[: _LINE_BYTES_MAX + 1]
        for line in lines:
            self._take(line)
        return bool(data)

    def end(self) -> None:
        """Takes the last line, which may have no end."""
        rest, self._rest = self._rest, b""
        if rest:
            self._take(rest)

    def load_error(self) -> str:
        """Why the model could not be loaded, in words of our own; empty where llama.cpp doesn't say."""
        return next((why for said, why in _REASONS if any(said.search(line) for line in self._lines)), "")

    def last_words(self) -> str:
        """Why the process gave up by itself, without what users wrote; empty where it did not say."""
        found = (_LAST_WORDS.search(line) for line in reversed(self._lines))
        return next((words[0] for words in found if words), "")

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
