"""What a call uses of its tenant's limits."""

from __future__ import annotations

from typing import NamedTuple


class Amounts(NamedTuple):
    """Whole units, rounded up. A call under way counts as one of the concurrency by itself."""

    requests: int = 1
    tokens: int = 0
    input_bytes: int = 0
    device_ms: int = 0
