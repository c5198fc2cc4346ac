"""Data lanes between gateway and runner: credits, offers and chunks as pure classes, the same on both ends.

An endpoint sends through an `Outbox` and receives through an `Inbox`. Small payloads travel inline and are bounded by
a `Credit`; larger ones are offered, set aside whole in the receiver's `ByteBudget`, accepted, and only then move as
chunks. The classes do no I/O, know no clock and belong to one thread; `write_paced` and `write_frames` connect
them to a stream.
"""

from headrace_common.lanes.budget import ByteBudget
from headrace_common.lanes.chunks import Chunk, decode_chunks, encode_chunk
from headrace_common.lanes.credit import CreditGrant, CreditWindow
from headrace_common.lanes.inbox import Inbox
from headrace_common.lanes.limits import LANE_OPTIONS, LaneLimits
from headrace_common.lanes.outbox import Outbox, Parcel, Withdrawn
from headrace_common.lanes.payload import Payload, PayloadParts
from headrace_common.lanes.streams import FramePacer, run_until_one_fails, write_frames, write_paced
from headrace_common.lanes.violation import LaneViolation

__all__ = [
    "LANE_OPTIONS",
    "ByteBudget",
    "Chunk",
    "CreditGrant",
    "CreditWindow",
    "FramePacer",
    "Inbox",
    "LaneLimits",
    "LaneViolation",
    "Outbox",
    "Parcel",
    "Payload",
    "PayloadParts",
    "Withdrawn",
    "decode_chunks",
    "encode_chunk",
    "run_until_one_fails",
    "write_frames",
    "write_paced",
]
