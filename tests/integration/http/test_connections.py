"""What the HTTP server takes from a connection, and what it cuts off."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from headrace_client.errors import HeadraceError
from headrace_common.errors import ConfigError
from headrace_common.tls import Tls
from headrace_common.tls_files import TlsFiles
from headrace_gateway.http.bodies import Bodies, BodyLimits
from headrace_gateway.http.envelope import Envelope
from headrace_gateway.http.failures import failure_response
from headrace_gateway.http.http_metrics import HttpMetrics
from headrace_gateway.http.server import HttpServer
from headrace_gateway.http.server_protocol import ConnectionLimits
from support.certificates import Authority
from support.eventually import eventually

SHORT_S = 0.2
LONG_S = 30.0
GET = b"GET /fast HTTP/1.1\r\nHost: here\r\n"


@dataclass
class Served:
    """A server with an application of the test, and what has happened there."""

    server: HttpServer
    bodies: Bodies
    metrics: HttpMetrics
    port: int = 0
    begun: int = 0
    cancelled: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.begun += 1
        try:
            response = await self.answer(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        match request.url.path:
            case "/slow":
                await self.release.wait()
            case "/body":
                try:
                    async with self.bodies.read(request) as body:
                        return PlainTextResponse(str(len(body)))
                except HeadraceError as error:
                    return failure_response(error, path="/body", request_id="r")
            case "/large":
                return PlainTextResponse("x" * (8 << 20))
        return PlainTextResponse("done")

    async def connect(self, **options: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = socket.create_connection(("127.0.0.1", self.port))
        for option, value in options.items():
            connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        return await asyncio.open_connection(sock=connection)

    async def exchange(self, sent: bytes) -> bytes:
        """Everything that comes until the server closes; what is sent is there when the server sees the connection."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(sent)
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            async with asyncio.timeout(LONG_S):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    *,
    head_timeout_s: float = LONG_S,
    body_timeout_s: float = LONG_S,
    write_timeout_s: float = LONG_S,
    connections_max: int = 100,
    tls: Tls | None = None,
) -> AsyncGenerator[Served]:
    limits = ConnectionLimits(
        head_bytes_max=4_096,
        headers_max=20,
        head_timeout_s=head_timeout_s,
        write_timeout_s=write_timeout_s,
        connections_max=connections_max,
    )
    metrics = HttpMetrics(registry=CollectorRegistry())
    bodies = Bodies(
        limits=BodyLimits(bytes_max=1_000, total_bytes_max=1_500, timeout_s=body_timeout_s, rate_min=1_000_000)
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await served(scope, receive, send)

    server = HttpServer(
        app=Envelope(app=app, metrics=metrics), limits=limits, idle_timeout_s=60, tls=tls, refused=metrics.refuse
    )
    served = Served(server=server, bodies=bodies, metrics=metrics)
    served.port = int((await server.start("127.0.0.1:0")).rpartition(":")[2])
    try:
        yield served
    finally:
        await server.stop(0)


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and error code of the one answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["errorCode"]


HEADS: list[tuple[bytes, tuple[int, str]]] = [
    (b"nonsense\r\n\r\n", (400, "REQUEST_MALFORMED")),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400, "REQUEST_MALFORMED")),
    (GET + b"Host: there\r\n\r\n", (400, "REQUEST_MALFORMED")),
    (GET + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", (400, "REQUEST_MALFORMED")),
    (GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", (400, "REQUEST_MALFORMED")),
    (GET + b"X: \x00\r\n\r\n", (400, "REQUEST_MALFORMED")),
    (GET + b"X: 1\r\n" * 10_000 + b"\r\n", (431, "HEADERS_TOO_LARGE")),
    (GET + b"X: " + b"x" * 5_000 + b"\r\n\r\n", (431, "HEADERS_TOO_LARGE")),
    (GET + b"X: " + b"x" * 100_000, (431, "HEADERS_TOO_LARGE")),
    (b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n", (431, "HEADERS_TOO_LARGE")),
]


async def test_a_head_that_is_wrong_or_too_large_is_refused_in_our_own_words() -> None:
    async with serving() as served:
        for head, expected in HEADS:
            assert refusal(await served.exchange(head)) == expected, head[:60]
        assert served.begun == 0
        assert served.metrics.refused == {"REQUEST_MALFORMED": 6, "HEADERS_TOO_LARGE": 4}
        assert (await served.exchange(GET + b"Connection: close\r\n\r\n")).endswith(b"done")


async def test_slow_senders_are_cut_off_while_others_are_answered() -> None:
    async with serving(head_timeout_s=SHORT_S, body_timeout_s=SHORT_S) as served:
        silent = served.exchange(b"")
        head = served.exchange(GET)
        half = served.exchange(b"POST /body HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nhal")
        second = served.exchange(GET + b"\r\n" + GET)
        quick = served.exchange(GET + b"Connection: close\r\n\r\n")
        answers = await asyncio.gather(silent, head, half, second, quick)
        assert [refusal(answer) for answer in answers[:3]] == [(408, "REQUEST_TOO_SLOW")] * 3
        first, _, rest = answers[3].partition(b"done")
        assert first.startswith(b"HTTP/1.1 200") and refusal(rest) == (408, "REQUEST_TOO_SLOW")
        assert answers[4].endswith(b"done")
        assert served.bodies.held_bytes == 0


async def test_bodies_are_bounded_one_by_one_and_together() -> None:
    def post(length: int, content: bytes, more: bytes = b"") -> bytes:
        head = f"POST /body HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {length}\r\n"
        return head.encode() + more + b"\r\n" + content

    chunk = b"100\r\n" + b"x" * 256 + b"\r\n"
    chunks = b"POST /body HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n" + 9 * chunk
    async with serving() as served:
        assert (await served.exchange(post(1_000, b"x" * 1_000))).endswith(b"1000")
        # Told by its length before it is sent, and found out where it tells none.
        assert refusal(await served.exchange(post(1_001, b""))) == (413, "MESSAGE_TOO_LARGE")
        assert refusal(await served.exchange(chunks)) == (413, "MESSAGE_TOO_LARGE")
        assert refusal(await served.exchange(post(3, b"abc", b"Content-Encoding: br\r\n"))) == (
            415,
            "CONTENT_TYPE_UNSUPPORTED",
        )
        served.bodies.held_bytes = 1_000  # somebody else's
        assert refusal(await served.exchange(post(501, b"x" * 501))) == (429, "SERVER_OVERLOADED")
        assert served.bodies.held_bytes == 1_000


async def test_a_client_that_leaves_cancels_its_request_and_nothing_else() -> None:
    async with serving() as served:
        _, writer = await served.connect()
        other_reader, other_writer = await served.connect()
        for one in (writer, other_writer):
            one.write(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")
        await eventually(lambda: served.begun == 2)
        writer.transport.abort()
        await eventually(lambda: served.cancelled == 1)
        served.release.set()
        assert (await other_reader.readline()).startswith(b"HTTP/1.1 200")
        other_writer.close()
        await eventually(lambda: served.metrics.in_flight == 0)
        assert served.cancelled == 1


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    async with serving(write_timeout_s=SHORT_S) as served:
        _, writer = await served.connect(SO_RCVBUF=4_096)
        writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue] - a socket's transport
        writer.write(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        await eventually(lambda: served.begun == 1)
        await eventually(lambda: served.server.connections == 0)
        writer.transport.abort()


async def test_one_connection_too_many_is_told_so() -> None:
    async with serving(connections_max=1) as served:
        _, writer = await served.connect()
        await eventually(lambda: served.server.connections == 1)
        assert refusal(await served.exchange(b"")) == (429, "SERVER_OVERLOADED")
        writer.close()
        await eventually(lambda: served.server.connections == 0)
        assert (await served.exchange(GET + b"Connection: close\r\n\r\n")).endswith(b"done")


async def test_https_is_served_with_a_certificate_and_to_clients_with_one_where_authorities_are_given(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path, "authority")
    files, client = authority.issue("front"), authority.issue("client")
    context = ssl.create_default_context(cafile=authority.file)
    async with serving(tls=Tls(files=files)) as served:
        url = f"https://127.0.0.1:{served.port}/fast"
        async with httpx.AsyncClient(verify=context) as stranger:
            with pytest.raises(httpx.TransportError):
                await stranger.get(url)
        assert client.certificate is not None and client.key is not None
        context.load_cert_chain(client.certificate, client.key)
        async with httpx.AsyncClient(verify=context) as known:
            assert (await known.get(url)).text == "done"
    with pytest.raises(ConfigError, match="HEADRACE_TLS_KEY_FILE"):
        Tls(files=TlsFiles(certificate=files.certificate, key=client.key))


async def test_a_replaced_certificate_is_shown_to_new_connections_while_open_ones_go_on(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    tls = Tls(files=replace(ours.issue("front"), authorities=None))
    async with serving(tls=tls) as served:
        url = f"https://127.0.0.1:{served.port}/fast"
        async with (
            httpx.AsyncClient(verify=ssl.create_default_context(cafile=ours.file)) as open_one,
            httpx.AsyncClient(verify=ssl.create_default_context(cafile=other.file)) as new_one,
        ):
            assert (await open_one.get(url)).text == "done"
            other.issue("front")
            tls.look()
            tls.look()
            assert (await new_one.get(url)).text == "done"
            assert (await open_one.get(url)).text == "done"
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=ours.file)) as late:
            with pytest.raises(httpx.TransportError):
                await late.get(url)


async def test_replaced_authorities_decide_about_new_clients(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    tls = Tls(files=ours.issue("front"))
    client = other.issue("client")
    assert client.certificate is not None and client.key is not None
    context = ssl.create_default_context(cafile=ours.file)
    context.load_cert_chain(client.certificate, client.key)
    async with serving(tls=tls) as served:
        url = f"https://127.0.0.1:{served.port}/fast"
        async with httpx.AsyncClient(verify=context) as known:
            with pytest.raises(httpx.TransportError):
                await known.get(url)
            ours.file.write_bytes(other.file.read_bytes())
            tls.look()
            tls.look()
            assert (await known.get(url)).text == "done"


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with serving() as served:
        body = b"POST /body HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nabc"
        answers = await served.exchange(body + GET + b"\r\n" + GET + b"Connection: close\r\n\r\n")
        assert [part.rpartition(b"\r\n")[2][:4] for part in answers.split(b"HTTP/1.1 200")[1:]] == [
            b"3",
            b"done",
            b"done",
        ]


@pytest.mark.parametrize("grace_s", [LONG_S, 0.0])
async def test_stopping_lets_requests_finish_within_the_grace_and_takes_no_more(grace_s: float) -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        idle_reader, idle_writer = await served.connect()
        writer.write(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")
        await eventually(lambda: served.begun == 1 and served.server.connections == 2)
        stopping = asyncio.create_task(served.server.stop(grace_s))
        assert await idle_reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await served.connect()
        served.release.set()
        async with asyncio.timeout(LONG_S):
            await stopping
            answer = await _read_to_end(reader)
        assert answer.endswith(b"done") if grace_s else answer == b""
        for one in (writer, idle_writer):
            one.close()


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
