"""Events have the form of the standard, and their stream ends well however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace_client.errors import HeadraceError, ValidationError
from headrace_gateway.http.server_sent_events import HEARTBEAT, EventStream, OpenStreams, event
from support.eventually import eventually


@dataclass
class Client:
    """The server's side of one request, in place of a connection."""

    sent: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def __post_init__(self) -> None:
        self.reads.set()

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        return self.sent[-1].get("more_body") is False


def streams(*, streams_max: int = 2, heartbeat_s: float = 60.0) -> OpenStreams:
    return OpenStreams(streams_max=streams_max, draining=asyncio.Event(), heartbeat_s=heartbeat_s)


def answered(client: Client, events: AsyncGenerator[bytes, None], of: OpenStreams) -> asyncio.Task[None]:
    response = EventStream(events, streams=of, failure=lambda error: event(error.reason.encode(), name="error"))

    async def receive() -> Any:
        raise AssertionError("the body was read")

    return asyncio.ensure_future(response({"type": "http"}, receive, client.send))


async def telling(client: Client, *steps: bytes | Exception | None) -> AsyncGenerator[bytes, None]:
    """Each step is sent, raised, or waited for for ever."""
    try:
        for step in steps:
            if step is None:
                await asyncio.Event().wait()
            elif isinstance(step, Exception):
                raise step
            else:
                yield step
    finally:
        client.closed = True


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"x", b"data: x\n\n"),
        (b"", b"data: \n\n"),
        (b"a\nb\r\nc\rd\n", b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
    ],
)
def test_each_line_of_data_is_a_line_of_the_event(data: bytes, expected: bytes) -> None:
    assert event(data) == expected
    assert event(data, name="chunk") == b"event: chunk\n" + expected


async def test_events_are_sent_as_they_come_and_the_answer_ends_with_them() -> None:
    client, of = Client(), streams()
    await answered(client, telling(client, b"1", b"2"), of)
    start, *bodies = client.sent
    headers = dict(start["headers"])
    assert start["status"] == 200 and headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"content-length" not in headers and headers[b"cache-control"].startswith(b"no-cache")
    assert [message["body"] for message in bodies] == [b"1", b"2", b""]
    assert client.complete and of.open == 0


async def test_a_failure_before_the_first_event_is_raised_for_a_status_of_its_own() -> None:
    client, of = Client(), streams()
    with pytest.raises(ValidationError):
        await answered(client, telling(client, ValidationError("no")), of)
    assert not client.sent and of.open == 0


@pytest.mark.parametrize(
    ("error", "reason"), [(ValidationError("no"), b"FIELD_INVALID"), (RuntimeError("secret"), b"INTERNAL_ERROR")]
)
async def test_a_failure_after_the_first_event_is_the_last_one(error: Exception, reason: bytes) -> None:
    client = Client()
    await answered(client, telling(client, b"1", error), streams())
    assert client.body == b"1event: error\ndata: " + reason + b"\n\n" and client.complete


async def test_silence_is_broken_by_heartbeats() -> None:
    client, of = Client(), streams(heartbeat_s=0.01)
    task = answered(client, telling(client, None), of)
    await eventually(lambda: client.body.count(HEARTBEAT) >= 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_that_leaves_ends_the_events() -> None:
    client, of = Client(), streams()
    task = answered(client, telling(client, b"1", None), of)
    await eventually(lambda: client.body == b"1")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.closed and of.open == 0


@pytest.mark.parametrize("begun", [True, False])
async def test_a_server_that_drains_ends_its_streams_and_takes_no_more(*, begun: bool) -> None:
    client, draining = Client(), asyncio.Event()
    of = OpenStreams(streams_max=2, draining=draining)
    task = answered(client, telling(client, *([b"1"] if begun else []), None), of)
    await eventually(lambda: of.open == 1 and bool(client.sent) is begun)
    draining.set()
    of.ending.set()
    if begun:
        await task
        assert client.body == b"1event: error\ndata: SERVER_DRAINING\n\n" and client.complete
    else:
        with pytest.raises(HeadraceError, match="shutting down"):
            await task
        assert not client.sent
    assert client.closed and of.open == 0
    with pytest.raises(HeadraceError, match="shutting down"):
        await answered(Client(), telling(client, b"1"), of)


async def test_one_stream_too_many_is_refused() -> None:
    client, of = Client(), streams(streams_max=1)
    task = answered(client, telling(client, b"1", None), of)
    await eventually(lambda: client.body == b"1")
    with pytest.raises(HeadraceError) as caught:
        await answered(Client(), telling(client, b"1"), of)
    assert (caught.value.reason, caught.value.context) == ("SERVER_OVERLOADED", {"limit": "1"})
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
