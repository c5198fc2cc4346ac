"""Data lanes between gateway and runner: credits, offers and chunks as pure classes, the same on both ends.

An endpoint sends through an `Outbox` and receives through an `Inbox`. Small payloads travel inline and are bounded by
a `Credit`; larger ones are offered, set aside whole in the receiver's `ByteBudget`, accepted, and only then move as
chunks. No class here does I/O, knows a clock, or is safe for use by two threads.
"""

from headrace_common.lanes.budget import ByteBudget
from headrace_common.lanes.chunks import Chunk, decode_chunks, encode_chunk
from headrace_common.lanes.credit import CreditGrant, CreditWindow
from headrace_common.lanes.inbox import Inbox
from headrace_common.lanes.limits import LaneLimits
from headrace_common.lanes.outbox import Outbox, Parcel
from headrace_common.lanes.violation import LaneViolation

__all__ = [
    "ByteBudget",
    "Chunk",
    "CreditGrant",
    "CreditWindow",
    "Inbox",
    "LaneLimits",
    "LaneViolation",
    "Outbox",
    "Parcel",
    "decode_chunks",
    "encode_chunk",
]
