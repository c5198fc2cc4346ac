"""What is counted of the calls of one model version that are answered in parts."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace_common.latency_counts import LatencyCounts


@dataclass(slots=True)
class GenerationMeters:
    """Plain numbers, written on the event loop only.

    Attributes:
        used: Whether there was any.
        streams: Calls that are open.
        first_token: Arrival of a call at the gateway to its first token there.
        inter_token: Time between two tokens, over those that came together.
        tokens: Of `Generate`, by kind: `prompt` and `cached_prompt` of calls that ended well, and `completion`.
        failovers: Runners lost in the middle of an answer: `continued` elsewhere, or `interrupted`.
        readers_too_slow: Calls cancelled because their client did not read.
    """

    used: bool = False
    streams: int = 0
    first_token: LatencyCounts = field(default_factory=LatencyCounts)
    inter_token: LatencyCounts = field(default_factory=LatencyCounts)
    tokens: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "cached_prompt": 0, "completion": 0})
    failovers: dict[str, int] = field(default_factory=lambda: {"continued": 0, "interrupted": 0})
    readers_too_slow: int = 0
