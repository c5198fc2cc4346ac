"""`/v1/infer` and its batch, in front of a packed stream that echoes."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
import msgpack  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import orjson
import pytest

from headrace_client.contracts.inference import open_inference_pb2
from headrace_common import catalogue, rpc_status
from headrace_common.errors import AuthError, ModelError, RunnerUnavailable
from support.eventually import eventually
from support.http_front import HttpFront, http_front
from support.stream_gateway import ServedStream, StreamGateway, serving

PACK: Any = msgpack
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Served:
    """A front with a scripted gateway behind it."""

    def __init__(self, gateway: StreamGateway, http: HttpFront, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.http = http
        self.client = client

    async def infer(self, document: Any, **headers: str) -> httpx.Response:
        return await self.client.post("/v1/infer", json=document, headers=headers)


@asynccontextmanager
async def front(**settings: Any) -> AsyncGenerator[Served]:
    async with (
        serving() as gateway,
        http_front(gateway.address, **settings) as http,
        httpx.AsyncClient(base_url=http.url, headers={"x-api-key": "the-key"}, timeout=60) as client,
    ):
        yield Served(gateway, http, client)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with front() as served:
        yield served


def document(model: str = "m", **fields: Any) -> dict[str, Any]:
    return {"modelId": model, "inputs": {"x": {"shape": [2], "dtype": "FP32", "data": [1.5, -2]}}, **fields}


async def test_an_inference_goes_there_and_back_with_all_that_it_says(served: Served) -> None:
    inputs = {
        "floats": {"shape": [2, 2], "dtype": "FLOAT32", "data": [[1, 2.5], ["NaN", "-Infinity"]]},
        "wide": {"dtype": "UINT64", "data": [[2**64 - 1]]},
        "flags": {"shape": [1, 2], "dtype": "BOOLEAN", "data": [True, False]},
        "texts": {"shape": [2], "dtype": "BYTES", "data": ["grüße", ""]},
        "raw": {"shape": [2], "dtype": "INT16", "data": base64.b64encode(b"\1\0\2\0").decode()},
        "scalar": {"shape": [], "dtype": "INT64", "data": 7},
    }
    told = {
        "parameters": {"temperature": 0.5, "top": 3, "name": "n", "flag": True},
        "priority": 7,
        "latencyCritical": True,
        "timeoutMs": 60_000,
        "outputs": ["floats"],
    }
    asked = {"modelId": "m:3+int8", "inputs": inputs, **told}
    answer = await served.infer(asked, **{"x-request-id": "mine", "traceparent": TRACE})
    assert answer.status_code == 200 and answer.headers["x-request-id"] == "mine"
    body = answer.json()
    assert body.keys() == {
        *("requestId", "outputs", "latencyMs", "runnerName", "deviceType", "timestamp", "metadata"),
    }
    assert (body["requestId"], body["metadata"]["model"], body["metadata"]["replica"]) == ("mine", "m", "runner-0")
    shown = {name: (output["dtype"], output["shape"], output["data"]) for name, output in body["outputs"].items()}
    assert shown == {
        "floats": ("FP32", [2, 2], [[1.0, 2.5], ["NaN", "-Infinity"]]),
        "wide": ("UINT64", [1, 1], [[2**64 - 1]]),
        "flags": ("BOOL", [1, 2], [[True, False]]),
        "texts": ("BYTES", [2], ["grüße", ""]),
        "raw": ("INT16", [2], [1, 2]),
        "scalar": ("INT64", [], 7),
    }
    (call,) = served.gateway.every_call
    request = call.infer.request
    assert (request.model_name, request.model_version, call.infer.priority) == ("m", "3+int8", 7)
    assert (call.request_id, call.traceparent) == ("mine", TRACE)
    # What is left of it: more than any default, so that it is this one.
    assert 30 < call.timeout.ToSeconds() <= 60
    assert {name: value.WhichOneof("parameter_choice") for name, value in request.parameters.items()} == {
        "temperature": "double_param",
        "top": "int64_param",
        "name": "string_param",
        "flag": "bool_param",
        "latency_critical": "bool_param",
    }
    assert [output.name for output in request.outputs] == ["floats"]


async def test_every_form_of_body_and_answer_carries_the_same_tensor(served: Served) -> None:
    raw = np.array([1.5, -2], "<f4").tobytes()
    packed = document()
    packed["inputs"]["x"]["data"] = raw
    message = open_inference_pb2.ModelInferRequest(model_name="m", raw_input_contents=[raw])
    message.inputs.add(name="x", datatype="FP32", shape=[2])
    bodies = {
        "application/json": orjson.dumps(document()),
        "application/msgpack": PACK.packb(packed),
        "application/x-protobuf": message.SerializeToString(),
    }

    def tensor(answer: httpx.Response) -> list[float]:
        match answer.headers["content-type"]:
            case "application/json":
                return answer.json()["outputs"]["x"]["data"]
            case "application/msgpack":
                return np.frombuffer(PACK.unpackb(answer.content)["outputs"]["x"]["data"], "<f4").tolist()
            case _:
                response = open_inference_pb2.ModelInferResponse.FromString(answer.content)
                return np.frombuffer(response.raw_output_contents[0], "<f4").tolist()

    for sent, body in bodies.items():
        for accepted in (None, *bodies):
            headers = {"content-type": f"{sent}; charset=utf-8", **({"accept": accepted} if accepted else {})}
            answer = await served.client.post("/v1/infer", content=body, headers=headers)
            assert answer.headers["content-type"] == (accepted or sent)
            assert tensor(answer) == [1.5, -2]
    zipped = gzip.compress(bodies["application/json"])
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert tensor(await served.client.post("/v1/infer", content=zipped, headers=headers)) == [1.5, -2]
    as_text = await served.infer(document(outputEncoding="base64"))
    assert base64.b64decode(as_text.json()["outputs"]["x"]["data"]) == raw


async def test_a_form_makes_an_element_of_each_part_that_is_no_field(served: Served) -> None:
    parts = [
        ("image", ("a.png", b"\x89PNG\x00", "image/png")),
        ("image", ("b.png", b"", "text/plain")),
        ("text", (None, "grüße")),
        ("modelId", (None, "m:2")),
        ("priority", (None, "9")),
        ("parameters", (None, '{"top_k": 3}')),
        ("outputs", (None, '["image"]')),
        ("outputEncoding", (None, "base64")),
    ]
    answer = await served.client.post("/v1/infer", files=parts)
    assert answer.status_code == 200, answer.text
    (call,) = served.gateway.every_call
    request = call.infer.request
    assert (request.model_name, request.model_version, call.infer.priority) == ("m", "2", 9)
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs] == [
        ("image", "BYTES", [2]),
        ("text", "BYTES", [1]),
    ]
    assert request.raw_input_contents[0] == b"\x05\0\0\0\x89PNG\0" + b"\0\0\0\0"
    assert base64.b64decode(answer.json()["outputs"]["image"]["data"]) == request.raw_input_contents[0]
    for bad in (parts[:3], parts[3:], [*parts, ("modelId", (None, "n"))], [*parts[:4], ("priority", (None, "high"))]):
        refused = await served.client.post("/v1/infer", files=bad)
        assert (refused.status_code, refused.json()["httpStatus"]) == (400, 400)
    cut = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for body in (cut, b"", b"--x--", b"no boundary at all"):
        refused = await served.client.post("/v1/infer", content=body, headers=headers)
        assert refused.status_code == 400


async def test_large_answers_are_compressed_for_who_asks(served: Served) -> None:
    many = document()
    many["inputs"]["x"] = {"dtype": "INT64", "data": list(range(20_000))}
    for coding, expected in (("gzip", "gzip"), ("gzip;q=0, br", None), ("", None)):
        answer = await served.infer(many, **{"accept-encoding": coding})
        assert answer.headers.get("content-encoding") == expected
        assert answer.json()["outputs"]["x"]["data"] == list(range(20_000))


BAD: list[tuple[bytes, int, str, str | None]] = [
    (b"", 400, "REQUEST_MALFORMED", None),
    (b"[" * 5_000, 400, "REQUEST_MALFORMED", None),
    (b"\xff", 400, "REQUEST_MALFORMED", None),
    (b"[]", 400, "FIELD_INVALID", None),
    (b"{}", 400, "FIELD_REQUIRED", "modelId"),
    (orjson.dumps(document(modelid="m")), 400, "FIELD_INVALID", "modelid"),
    (orjson.dumps(document(model="a:b:c")), 400, "FIELD_INVALID", "modelId"),
    (orjson.dumps(document(priority=10)), 400, "FIELD_INVALID", "priority"),
    (orjson.dumps(document(timeoutMs=True)), 400, "FIELD_INVALID", "timeoutMs"),
    (orjson.dumps(document(parameters={"a": []})), 400, "PARAMETER_INVALID", "parameters.a"),
    (orjson.dumps(document(outputEncoding="hex")), 400, "FIELD_INVALID", "outputEncoding"),
    (orjson.dumps(document(inputs={"": {}})), 400, "FIELD_INVALID", "inputs."),
    (orjson.dumps(document(inputs={"x": {"dtype": "INT8"}})), 400, "FIELD_REQUIRED", "inputs.x.data"),
    (orjson.dumps(document(inputs={"x": {"data": [1]}})), 400, "TENSOR_DATATYPE_UNSUPPORTED", "inputs.x.dtype"),
    (
        orjson.dumps(document(inputs={"x": {"dtype": "INT8", "data": [300]}})),
        *(400, "TENSOR_ELEMENT_INVALID", "inputs.x.data"),
    ),
    (orjson.dumps(document()).replace(b"1.5", b"NaN"), 400, "REQUEST_MALFORMED", None),
]


async def test_a_body_that_can_not_be_right_is_refused_by_its_field_and_never_sent_on(served: Served) -> None:
    for body, status, reason, field in BAD:
        answer = await served.client.post("/v1/infer", content=body, headers={"content-type": "application/json"})
        told = answer.json()
        assert (answer.status_code, told["errorCode"], told["context"].get("field")) == (status, reason, field), body
        assert told["httpStatus"] == status and told["requestId"] == answer.headers["x-request-id"]
        assert (await served.client.get(told["documentationUrl"])).json()["errorCode"] == reason
    for content_type in ("", "text/plain", "application/x-www-form-urlencoded", "application/json, application/json"):
        answer = await served.client.post("/v1/infer", content=b"{}", headers={"content-type": content_type})
        assert answer.status_code == 415
    for form in ("application/msgpack", "application/x-protobuf"):
        answer = await served.client.post("/v1/infer", content=b"\xc1\xff", headers={"content-type": form})
        assert answer.status_code == 400 and answer.json()["errorCode"] == "REQUEST_MALFORMED"
    assert served.gateway.every_call == []


async def test_what_the_gateway_refuses_is_told_with_its_status_and_advice(served: Served) -> None:
    failures = iter(
        (
            ModelError("model 'm' was not found", entry=catalogue.MODEL_NOT_FOUND, context={"model": "m"}),
            RunnerUnavailable("none", entry=catalogue.RUNNER_NOT_AVAILABLE, retry_after_s=1.2),
        )
    )
    served.gateway.respond = lambda stream, call: stream.refuse(call, next(failures))
    missing, busy = [await served.infer(document()) for _ in range(2)]
    assert (missing.status_code, missing.json()["context"]) == (404, {"model": "m"})
    assert (busy.status_code, busy.headers["retry-after"], busy.json()["retryAfterSeconds"]) == (503, "2", 1.2)
    served.gateway.refusal = AuthError("no", entry=catalogue.CREDENTIAL_UNKNOWN)
    other = await served.infer(document(), **{"x-api-key": "wrong"})
    assert (other.status_code, other.headers["www-authenticate"]) == (401, "Bearer")
    await served.gateway.kill()
    gone = await served.infer(document(), **{"x-api-key": "third"})
    assert (gone.status_code, gone.json()["errorCode"]) == (503, "GATEWAY_UNREACHABLE")
    assert served.gateway.address not in gone.text


async def test_credentials_and_origins_go_on_as_they_came_each_with_a_stream_of_its_own(served: Served) -> None:
    await served.infer(document())
    await served.infer(document())
    assert len(served.gateway.streams) == 1
    sent = {"authorization": "Bearer abc", "origin": "https://evil.example", "referer": "https://evil.example/a?b=c"}
    await served.infer(document(), **sent)
    assert len(served.gateway.streams) == 2
    told = served.gateway.metadata
    assert (told["authorization"], told["origin"]) == ("Bearer abc", "https://evil.example")
    assert (told["referer"], told["x-forwarded-host"]) == ("https://evil.example", served.http.url[7:])
    refused = await served.client.post("/v1/infer", json=document(), headers=[(b"x-api-key", "schlüssel".encode())])
    assert (refused.status_code, refused.json()["errorCode"]) == (401, "CREDENTIAL_MALFORMED")
    other_id = await served.infer(document(), **{"x-request-id": "not valid!", "traceparent": "nonsense"})
    assert other_id.headers["x-request-id"] == other_id.json()["requestId"] != "not valid!"


class Doorkeeper(grpc.GenericRpcHandler):
    """Knows nobody."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def refuse(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await rpc_status.abort(context, AuthError("no", entry=catalogue.CREDENTIAL_UNKNOWN))

        return grpc.unary_unary_rpc_method_handler(refuse)


async def test_a_large_body_of_a_stranger_is_not_read() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([Doorkeeper()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    try:
        async with http_front(f"127.0.0.1:{port}") as http:
            for length in (b"Content-Length: 8000000", b"Transfer-Encoding: chunked"):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(http.url.rpartition(":")[2]))
                head = b"POST /v1/infer HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nX-API-Key: k\r\n"
                writer.write(head + length + b"\r\n\r\n")
                async with asyncio.timeout(20):
                    assert b" 401 " in await reader.readline()
                writer.close()
            assert http.front.bodies.received_bytes == 0
    finally:
        await server.stop(0)


async def test_sessions_are_bounded_and_those_in_use_stay() -> None:
    async with front(sessions_max=2) as served:
        served.gateway.respond = lambda stream, call: None
        waiting = asyncio.create_task(served.infer(document()))
        await eventually(lambda: len(served.gateway.every_call) == 1)
        served.gateway.respond = ServedStream.answer
        for key in ("a", "b", "c"):
            assert (await served.infer(document(), **{"x-api-key": key})).status_code == 200
        assert len(served.http.front.sessions) == 2
        first = served.gateway.streams[0]
        first.answer(first.every_call[0])
        assert (await waiting).status_code == 200


async def test_a_client_that_leaves_cancels_its_call(served: Served) -> None:
    served.gateway.respond = lambda stream, call: None
    waiting = asyncio.create_task(served.infer(document()))
    await eventually(lambda: len(served.gateway.every_call) == 1)
    waiting.cancel()
    await eventually(lambda: served.gateway.streams[0].sent_cancels == [1])
    await eventually(lambda: served.http.front.bodies.held_bytes == 0)


async def test_a_batch_gives_one_result_or_error_for_each_in_order_and_so_many_at_once() -> None:
    async with front(batch_requests_max=5) as served:
        at_once = 0

        def respond(stream: ServedStream, call: Any) -> None:
            nonlocal at_once
            at_once = max(at_once, len(stream.calls))
            if call.infer.request.model_name == "missing":
                stream.refuse(call, ModelError("no", entry=catalogue.MODEL_NOT_FOUND))
            else:
                asyncio.get_running_loop().call_later(0.02, stream.answer, call)

        served.gateway.respond = respond
        items = [document("a"), document("missing"), document("b", priority=99), document("c"), document("d")]
        answer = await served.client.post(
            "/v1/infer/batch", json={"requests": items, "maxConcurrency": 2}, headers={"x-request-id": "b"}
        )
        results = answer.json()["results"]
        said = [
            result["result"]["metadata"]["model"] if "result" in result else result["error"]["errorCode"]
            for result in results
        ]
        assert said == ["a", "MODEL_NOT_FOUND", "FIELD_INVALID", "c", "d"]
        assert results[0]["result"]["requestId"] == "b/0" and results[1]["error"]["requestId"] == "b/1"
        assert at_once <= 2
        for bad in ({"requests": []}, {"requests": [document()] * 6}, {"requests": [{}], "maxConcurrency": -1}, {}):
            assert (await served.client.post("/v1/infer/batch", json=bad)).status_code == 400


async def test_a_job_is_the_job_services_to_take_and_to_tell(served: Served) -> None:
    asked = await served.client.post("/v1/infer/async", json=document())
    told = await served.client.get("/v1/infer/async/some-job")
    for answer in (asked, told):
        assert (answer.status_code, answer.json()["errorCode"]) == (503, "JOB_SERVICE_UNAVAILABLE")
    assert (await served.client.post("/v1/infer/async", json={})).status_code == 400


async def test_pages_of_other_origins_may_call_only_where_the_operator_says_so(served: Served) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert (await served.client.options("/v1/infer", headers=asked)).status_code == 405
    async with front(cors_origins="https://app.example") as opened:
        allowed = await opened.client.options("/v1/infer", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        answer = await opened.infer(document(), origin="https://app.example")
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        other = await opened.client.options("/v1/infer", headers={**asked, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_each_request_has_a_line_without_credentials_or_tensors(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for wanted in (True, False):
        async with front(access_log=wanted) as served:
            answer = await served.infer(document(), **{"x-request-id": "mine"})
            await served.client.get("/v1/nothing?secret=the-key")
            if served.http.front.access_log is not None:
                served.http.front.access_log.flush()
        lines = [orjson.loads(line) for line in capfd.readouterr().err.splitlines() if '"event": "request"' in line]
        if not wanted:
            assert not lines
            continue
        first, second = lines
        assert (first["method"], first["route"], first["status"]) == ("POST", "/v1/infer", 200)
        assert first["request_id"] == "mine" and first["duration_ms"] > 0
        assert first["response_bytes"] == len(answer.content)
        assert first["request_bytes"] == len(answer.request.content)
        assert (second["route"], second["status"]) == ("unknown", 404)
        assert "the-key" not in orjson.dumps(lines).decode()


async def test_front_shows_its_routes_its_counts_and_how_it_is(served: Served) -> None:
    await served.infer(document())
    assert (await served.client.get("/health")).json() == {"status": "UP"}
    # The scripted gateway serves nothing but the stream, so it is not ready.
    for path in ("/ready", "/q/health", "/q/health/ready"):
        assert (await served.client.get(path)).status_code == 503
    counts = (await served.client.get("/q/metrics")).text
    assert 'headrace_http_requests_total{method="POST",route="/v1/infer",status="200"} 1.0' in counts
    assert "headrace_http_sessions 2.0" in counts
    described = (await served.client.get("/openapi")).json()
    assert described["openapi"].startswith("3.1")
    assert "requestBody" in described["paths"]["/v1/infer"]["post"]
    assert "/openapi" in (await served.client.get("/docs")).text
    unknown = await served.client.get("/v1/nothing")
    assert (unknown.status_code, unknown.json()["errorCode"]) == (404, "PATH_UNKNOWN")
    wrong = await served.client.get("/v1/infer")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
