"""What is counted of the sequences of one replica."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SequenceCounts:
    """Plain numbers, written on the event loop and read when they are scraped.

    Attributes:
        live: Sequences that have state now.
        state_bytes: Memory that it takes.
        started: Sequences that began, or began anew.
        ended: Those that ended with a request.
        expired: Those that had no request for too long.
        lost: Those that were forgotten because the process had stood still.
        refused: Requests that met a bound.
    """

    live: int = 0
    state_bytes: int = 0
    started: int = 0
    ended: int = 0
    expired: int = 0
    lost: int = 0
    refused: int = 0
