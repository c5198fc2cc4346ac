"""Reads a spool for quota, in the order in which it was written."""

from __future__ import annotations

import mmap

from headrace_gateway.accounting import records
from headrace_gateway.accounting.batch import Batch
from headrace_gateway.accounting.records import Kind, Texts
from headrace_gateway.accounting.segments import Segment, mapped
from headrace_gateway.accounting.spool import Spool

_TEXTS, _ADMITTED, _ENDED = int(Kind.TEXTS), int(Kind.ADMITTED), int(Kind.ENDED)


class SpoolReader:
    """A place in a spool, which its writer may be ahead of. One event loop.

    Args:
        after: Sequence of the last record that quota has.
    """

    def __init__(self, *, spool: Spool, after: int) -> None:
        self._spool = spool
        self._after = after
        self._segment: Segment | None = None
        self._content: mmap.mmap | None = None
        self._at = 0
        self._texts: dict[int, Texts] = {}

    def read(self, into: Batch, *, events: int) -> bool:
        """Adds at most so many events to a batch; False when nothing more is written."""
        while events:
            end = self._end()
            if self._at >= end and not self._next():
                return False
            events = self._read(into, self._end(), events)
        return True

    def close(self) -> None:
        """Lets go of the file."""
        if self._content is not None:
            self._content.close()
            self._content = None

    def _read(self, into: Batch, end: int, events: int) -> int:
        """Reads up to `end`; returns how many more events may be read."""
        content, at, texts = self._content, self._at, self._texts
        assert content is not None, "there is a segment"
        while at < end and events:
            begin, at = records.body_at(content, at)
            kind, number = records.prefix(content, begin)
            if kind == _TEXTS:
                texts[number] = records.read_texts(content[begin:at])
            elif kind != _ADMITTED and number > self._after:
                if kind == _ENDED:
                    into.add_ended(records.read_ended(content, begin, at), texts)
                else:
                    into.add_event(Kind(kind), number, records.read_event(content[begin:at]))
                events -= 1
        self._at = at
        return events

    def _end(self) -> int:
        segment = self._segment
        if segment is None:
            return 0
        return self._spool.at if segment is self._spool.segments[-1] else segment.end

    def _next(self) -> bool:
        """Goes on to the file after this one."""
        former = self._segment
        following = next(
            (segment for segment in self._spool.segments if former is None or segment.path > former.path), None
        )
        if following is None:
            return False
        content = mapped(following.path)
        assert content is not None, "the spool's own files have their room"
        self.close()
        self._segment, self._content, self._at, self._texts = following, content, 0, {}
        return True
