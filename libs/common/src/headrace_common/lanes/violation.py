"""The peer broke the lane protocol."""

from __future__ import annotations


class LaneViolation(Exception):
    """The peer sent what the protocol forbids; the session must end.

    Never shown to a client: calls on the session fail as those of a lost runner do.
    """
