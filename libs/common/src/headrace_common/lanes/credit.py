"""Cumulative credit: how much one side may send before the other has made room."""

from __future__ import annotations

from headrace_common.lanes.violation import LaneViolation


class CreditWindow:
    """The sender's view: what was granted in all, less what was sent in all.

    Totals are cumulative since the session began, so a repeated or delayed grant does no harm.
    Source: credit-based flow control as in HTTP/2 (RFC 9113, section 5.2), with totals instead of increments.
    """

    __slots__ = ("_granted_bytes", "_granted_messages", "_sent_bytes", "_sent_messages")

    def __init__(self) -> None:
        self._granted_messages = 0
        self._granted_bytes = 0
        self._sent_messages = 0
        self._sent_bytes = 0

    @property
    def messages_left(self) -> int:
        """Messages that may still be sent."""
        return self._granted_messages - self._sent_messages

    @property
    def bytes_left(self) -> int:
        """Inline payload bytes that may still be sent."""
        return self._granted_bytes - self._sent_bytes

    def fits(self, payload_bytes: int) -> bool:
        """Whether a message with that many inline bytes may be sent now."""
        return self.messages_left > 0 and payload_bytes <= self.bytes_left

    def spend(self, payload_bytes: int) -> None:
        """Counts one message as sent. The caller has asked `fits`."""
        self._sent_messages += 1
        self._sent_bytes += payload_bytes

    def grant(self, messages: int, payload_bytes: int) -> None:
        """Takes the receiver's totals; totals never shrink."""
        self._granted_messages = max(self._granted_messages, messages)
        self._granted_bytes = max(self._granted_bytes, payload_bytes)


class CreditGrant:
    """The receiver's view: a fixed window that moves on as messages are done with."""

    __slots__ = (
        "_messages_max",
        "_open_bytes",
        "_open_messages",
        "_payload_bytes_max",
        "_received_bytes",
        "_received_messages",
        "_told",
    )

    def __init__(self, *, messages_max: int, payload_bytes_max: int) -> None:
        self._messages_max = messages_max
        self._payload_bytes_max = payload_bytes_max
        self._received_messages = 0
        self._received_bytes = 0
        self._open_messages = 0
        self._open_bytes = 0
        self._told = (0, 0)

    @property
    def open_messages(self) -> int:
        """Messages received and not given back yet."""
        return self._open_messages

    @property
    def open_bytes(self) -> int:
        """Inline payload bytes received and not given back yet."""
        return self._open_bytes

    def receive(self, payload_bytes: int) -> None:
        """Counts a message that came in.

        Raises:
            LaneViolation: The sender had no credit for it.
        """
        self._received_messages += 1
        self._received_bytes += payload_bytes
        self._open_messages += 1
        self._open_bytes += payload_bytes
        if self._received_messages > self._told[0] or self._received_bytes > self._told[1]:
            raise LaneViolation("message without credit")

    def give_back(self, payload_bytes: int) -> None:
        """Counts a received message as done with, which makes room for another."""
        self._open_messages -= 1
        self._open_bytes -= payload_bytes

    def _total(self) -> tuple[int, int]:
        return (
            self._received_messages - self._open_messages + self._messages_max,
            self._received_bytes - self._open_bytes + self._payload_bytes_max,
        )

    def due(self, *, only_if_needed: bool) -> tuple[int, int] | None:
        """The totals (messages, payload bytes) to tell the sender now, or None.

        Args:
            only_if_needed: True when a frame would be sent for the credit alone: then half of a window must have
                become free since the last telling. False when the credit can ride a frame that goes anyway.
        """
        total = self._total()
        if total == self._told:
            return None
        if only_if_needed and not (
            2 * (total[0] - self._told[0]) >= self._messages_max
            or 2 * (total[1] - self._told[1]) >= self._payload_bytes_max
        ):
            return None
        self._told = total
        return total
