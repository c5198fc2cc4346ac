"""The load generators against real servers: every call is made and counted, and what goes wrong is told."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from headrace.gateway.v1.inference_pb2 import StreamAnswer, StreamLimits, StreamRequest, StreamResponse
from headrace_bench import generators, http_request
from headrace_bench.load import Load, LoadFailedError
from headrace_bench.models import MODELS
from headrace_bench.service import Service, echo_server
from headrace_bench.unary_client import INFER

TINY = MODELS["tiny"]
Context = grpc.aio.ServicerContext[Any, Any]


@pytest.fixture(scope="module")
def echo() -> Iterator[Service]:
    with echo_server() as service:
        yield service


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request"
    path.write_bytes(TINY.request)
    return path


class Streams:
    """InferenceService.Stream that answers each call with its own tensor, and notes how it was called.

    Attributes:
        in_flight_most: Most calls in one message.
        fail_every: Every so many calls one fails; 0 means none.
    """

    def __init__(self, limits: StreamLimits) -> None:
        self.calls = 0
        self.opened = 0
        self.packed_most = 0
        self.fail_every = 0
        self._limits = limits

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        self.opened += 1
        await context.write(StreamResponse(limits=self._limits).SerializeToString())
        async for raw in requests:
            request = StreamRequest.FromString(raw)
            self.packed_most = max(self.packed_most, len(request.calls))
            assert len(request.calls) <= self._limits.calls_per_message_max
            assert len(raw) <= self._limits.message_bytes_max
            # In two messages and backwards: any order is allowed.
            answers = [self._answer(call) for call in reversed(request.calls)]
            for part in (answers[:1], answers[1:]):
                await context.write(StreamResponse(answers=part).SerializeToString())

    def _answer(self, call: Any) -> StreamAnswer:
        self.calls += 1
        answer = StreamAnswer(id=call.id)
        if self.fail_every and self.calls % self.fail_every == 0:
            answer.error.code, answer.error.message = 14, "no runner"
        else:
            answer.infer.response.raw_output_contents.extend(call.infer.request.raw_input_contents)
        return answer


@pytest.fixture
async def streams() -> AsyncIterator[tuple[Streams, Service]]:
    served = Streams(StreamLimits(calls_max=64, bytes_max=1 << 20, calls_per_message_max=8, message_bytes_max=4096))
    server = grpc.aio.server()
    handlers = {"Stream": grpc.stream_stream_rpc_method_handler(served.stream)}
    service = grpc.method_handlers_generic_handler("headrace.gateway.v1.InferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield served, Service(address=f"127.0.0.1:{port}", api_key="key", processes={})
    await server.stop(0)


async def loads_of(generator: generators.Generator, *counts: int) -> list[Load]:
    with closing(generator):
        return [await asyncio.to_thread(generator.run, count) for count in counts]


def packed(service: Service, request: Path, *, concurrency: int = 64, streams: int = 2) -> generators.Generator:
    (row,) = TINY.rows(1)
    return generators.packed(
        service, request=request, outputs_bytes=row.nbytes, concurrency=concurrency, streams=streams
    )


def unary(service: Service, request: Path, program: str | None) -> generators.Generator:
    return generators.unary(
        service,
        request=request,
        answer_bytes=len(TINY.request),
        concurrency=16,
        connections=2,
        h2load=program,
    )


PROGRAMS = [
    None,
    pytest.param(
        shutil.which("h2load"), marks=pytest.mark.skipif(not shutil.which("h2load"), reason="h2load is not installed")
    ),
]


@pytest.mark.parametrize("program", PROGRAMS, ids=["grpc.aio", "h2load"])
async def test_unary_load_makes_every_call(echo: Service, request_file: Path, program: str | None) -> None:
    loads = await loads_of(unary(echo, request_file, program), 40, 200)
    assert [(load.done, load.failed) for load in loads] == [(40, {}), (200, {})]
    assert all(0 < load.p50_ms <= load.p99_ms < 1_000 * load.wall_s for load in loads)


@pytest.mark.parametrize("program", PROGRAMS, ids=["grpc.aio", "h2load"])
async def test_unary_load_tells_of_calls_that_fail(echo: Service, request_file: Path, program: str | None) -> None:
    elsewhere = Service(address=echo.address, api_key="key", processes={})
    generator = generators.unary(
        elsewhere, request=request_file, answer_bytes=1, concurrency=4, connections=1, h2load=program
    )
    (load,) = await loads_of(generator, 20)
    assert load.failed


@pytest.mark.parametrize("program", PROGRAMS, ids=["asyncio", "h2load"])
async def test_http_load_makes_every_request_and_tells_of_those_that_fail(tmp_path: Path, program: str | None) -> None:
    served, answers = 0, iter([*[b"200 OK"] * 250, *[b"503 Service Unavailable"] * 50])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                assert b"x-api-key: key\r\n" in head.lower()
                assert await reader.readexactly(len(request.body)) == request.body
                served += 1
                writer.write(b"HTTP/1.1 " + next(answers) + b"\r\ncontent-length: 2\r\n\r\n{}")

    request = http_request.open_infer(TINY)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        service = Service(address=f"{host}:{port}", api_key="key", processes={})
        generator = generators.http(service, request=request, folder=tmp_path, concurrency=4, h2load=program)
        loads = await loads_of(generator, 50, 200, 50)
    assert [(load.done, sum(load.failed.values())) for load in loads] == [(50, 0), (200, 0), (0, 50)]
    assert served == 300


def test_http_requests_carry_the_row_of_the_others() -> None:
    row = TINY.rows(1).tobytes()
    assert http_request.open_infer(TINY).body.endswith(row)
    document = json.loads(http_request.infer(TINY).body)
    assert base64.b64decode(document["inputs"]["x"]["data"]) == row
    answer = {"outputs": {"z": {"data": document["inputs"]["x"]["data"]}}}
    assert http_request.output_of({}, json.dumps(answer).encode()) == row
    assert http_request.output_of({"inference-header-content-length": "2"}, b"{}" + row) == row


async def test_packed_load_makes_every_call_and_packs(streams: tuple[Streams, Service], request_file: Path) -> None:
    served, service = streams
    loads = await loads_of(packed(service, request_file), 100, 1_000)
    assert [(load.done, load.failed) for load in loads] == [(100, {}), (1_000, {})]
    assert (served.calls, served.opened, served.packed_most) == (1_100, 2, 8)
    assert loads[1].calls_per_message > 1


async def test_packed_load_of_one_uses_one_stream(streams: tuple[Streams, Service], request_file: Path) -> None:
    served, service = streams
    (load,) = await loads_of(packed(service, request_file, concurrency=1), 50)
    assert (load.done, served.opened, served.packed_most) == (50, 1, 1)


async def test_packed_load_tells_of_calls_that_fail(streams: tuple[Streams, Service], request_file: Path) -> None:
    served, service = streams
    served.fail_every = 10
    (load,) = await loads_of(packed(service, request_file), 100)
    assert (load.done, load.failed) == (90, {"14: no runner": 10})


async def test_packed_load_above_the_limits_is_refused(
    streams: tuple[Streams, Service], request_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, service = streams
    with pytest.raises(LoadFailedError, match="ended with 1"):
        await loads_of(packed(service, request_file, concurrency=200, streams=1), 10)
    assert "more than a stream takes" in capfd.readouterr().err


async def test_model_in_process_answers_rows() -> None:
    (load,) = await loads_of(generators.in_process(model="tiny", concurrency=64), 1_000)
    assert load.done >= 900 and not load.failed


def test_echo_server_gives_the_request_back(echo: Service) -> None:
    assert echo.call(TINY.request) == TINY.request
    with grpc.insecure_channel(echo.address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(INFER + "Elsewhere")(b"", timeout=5)
