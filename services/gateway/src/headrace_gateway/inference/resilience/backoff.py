"""How long a call pauses before it is tried again where it has failed."""

from __future__ import annotations

from random import Random

INITIAL_S = 0.1
FACTOR = 2.0
MAX_S = 2.0
JITTER = 0.25


def backoff_s(retry: int, random: Random, *, hint_s: float | None = None) -> float:
    """The pause before a retry: doubling from 0.1 s to 2 s, a quarter of it up or down by chance.

    The jitter keeps calls that failed together from coming back together. A hint of the runner is never undercut.

    Args:
        retry: Which retry it is, from 1.
        random: Where the chance comes from.
        hint_s: What the runner asked for (`RetryInfo`).
    """
    pause_s = min(INITIAL_S * FACTOR ** (retry - 1), MAX_S) * (1 + random.uniform(-JITTER, JITTER))
    return pause_s if hint_s is None else max(pause_s, hint_s)
