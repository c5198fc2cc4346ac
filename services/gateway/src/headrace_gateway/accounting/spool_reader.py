"""Reads a spool for quota, in the order in which it was written."""

from __future__ import annotations

import mmap
from typing import NamedTuple

from headrace_gateway.accounting.segments import Portion, Segment, mapped
from headrace_gateway.accounting.spool import Spool


class Read(NamedTuple):
    """Records as they are in the file: the content of a message to quota, and what follows once quota has it."""

    content: bytes
    upto: Portion


class SpoolReader:
    """A place in a spool, which its writer may be ahead of. Nothing of a record is looked at. One event loop.

    Args:
        after: Sequence of the last record that quota has. It may be sent a few again that it has.
    """

    def __init__(self, *, spool: Spool, after: int) -> None:
        self._spool = spool
        self._after = after
        self._segment: Segment | None = None
        self._content: mmap.mmap | None = None
        self._at = 0

    @property
    def behind(self) -> bool:
        """Whether there is something to read."""
        return self._upto(rest=True) is not None

    def read(self, *, rest: bool) -> Read | None:
        """The next portion; None when it isn't full yet, and without `rest` it is waited for."""
        upto = self._upto(rest=rest)
        if upto is None:
            return None
        if self._content is None:
            assert self._segment is not None, "there is something in it"
            self._content = mapped(self._segment.path)
            assert self._content is not None, "the spool's own files have their room"
        content = self._content[self._at : upto.end]
        self._at = upto.end
        return Read(content, upto)

    def close(self) -> None:
        """Lets go of the file."""
        if self._content is not None:
            self._content.close()
            self._content = None

    def _upto(self, *, rest: bool) -> Portion | None:
        while True:
            segment = self._segment
            if segment is not None:
                for portion in segment.portions:
                    if portion.end > self._at:
                        if portion.through > self._after:
                            return portion
                        self._at = portion.end
                if segment is self._spool.segments[-1]:
                    unfinished = self._spool.at > self._at and segment.last_event > self._after
                    return (
                        Portion(self._spool.at, segment.last_event, self._spool.events) if rest and unfinished else None
                    )
            if not self._next():
                return None

    def _next(self) -> bool:
        """Goes on to the file after this one."""
        former = self._segment
        following = next(
            (segment for segment in self._spool.segments if former is None or segment.path > former.path), None
        )
        if following is None:
            return False
        self.close()
        self._segment, self._at = following, 0
        return True
