"""The sizes that both ends of a lane keep to."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


LANE_OPTIONS: tuple[tuple[str, int], ...] = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4 * MIB))
"""gRPC arguments for both ends of a lane: a fixed window. By default each end pings the other to learn how large a
window the network needs, which inside a cluster costs system calls with every frame and finds out nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """Bounds of one session's lanes, in bytes unless said otherwise.

    Attributes:
        frame_bytes_max: Largest frame on either lane, all overhead included.
        inline_bytes_max: Largest payload that travels inside a small frame; a larger one is offered.
        chunk_bytes: Payload bytes in one chunk frame.
        header_bytes_max: Room that a call's or result's fields other than the payload may take in a frame.
        message_bytes_max: Largest payload at all.
        window_messages: Calls (or results) that may be under way in one direction of a session.
        window_bytes: Inline payload bytes that may be under way in one direction of a session.
    """

    frame_bytes_max: int = MIB
    inline_bytes_max: int = 256 * KIB
    chunk_bytes: int = 512 * KIB
    header_bytes_max: int = 8 * KIB
    message_bytes_max: int = 64 * MIB
    window_messages: int = 1024
    window_bytes: int = 32 * MIB
