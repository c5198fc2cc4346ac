"""Calls what Triton adds to the protocol with an unchanged tritonclient; run by the tests with .venv-triton's Python.

    call_extensions.py ENDPOINT API_KEY OUTPUT.json

The model `numbers` has an input `x_<datatype>` and an output `z_<datatype>` that equals it for every datatype but
BYTES, `texts` has them for BYTES, all of shape (rows, 3). `classifier` is an identity of `x` to `z`, FP32 (rows, 4).
OUTPUT tells what came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

TIMEOUT_S = 30
ROWS = 5
NUMBERS, TEXTS, CLASSIFIER = "numbers", "texts", "classifier"
FIXED = {
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
}
WORDS = [b"", b"plain", b"with\0NUL\0", "ünïcödé 漢字".encode(), b"\n\t ", b"x" * 1000]


def arrays(seed: int, model: str = NUMBERS) -> dict[str, np.ndarray]:
    """Inputs of a model by datatype: random bits, so that NaNs with payloads, infinities and denormals come along."""
    random = np.random.default_rng(seed)
    if model == TEXTS:
        words = [WORDS[index] for index in random.integers(len(WORDS), size=ROWS * 3)]
        return {"BYTES": np.array(words, object).reshape(ROWS, 3)}
    made: dict[str, np.ndarray] = {"BOOL": random.integers(0, 2, (ROWS, 3)).astype(bool)}
    for datatype, dtype in FIXED.items():
        size = ROWS * 3 * np.dtype(dtype).itemsize
        made[datatype] = np.frombuffer(random.bytes(size), dtype).reshape(ROWS, 3)
    return made


def model_of(number: int) -> str:
    """Which model the request of this number on a stream is for."""
    return TEXTS if number % 3 == 0 else NUMBERS


def tensors(values: dict[str, np.ndarray]) -> list[triton.InferInput]:
    """Inputs as tritonclient wants them."""
    made = []
    for datatype, array in values.items():
        tensor = triton.InferInput(f"x_{datatype}", list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def differences(values: dict[str, np.ndarray], result: Any) -> list[str]:
    """The datatypes that didn't come back bit by bit."""
    found = []
    for datatype, sent in values.items():
        got = result.as_numpy(f"z_{datatype}")
        same = got is not None and got.shape == sent.shape and got.dtype == sent.dtype
        if not same or (got.tolist() != sent.tolist() if datatype == "BYTES" else got.tobytes() != sent.tobytes()):
            found.append(datatype)
    return found


def final_response(result: Any) -> bool:
    return result.get_response().parameters["triton_final_response"].bool_param


def scores(rows: list[list[float]]) -> list[triton.InferInput]:
    tensor = triton.InferInput("x", [len(rows), 4], "FP32")
    tensor.set_data_from_numpy(np.array(rows, np.float32))
    return [tensor]


def unary(client: triton.InferenceServerClient, headers: dict[str, str]) -> dict:
    facts: dict[str, Any] = {"sync": []}
    for model in (NUMBERS, TEXTS):
        values = arrays(1, model)
        result = client.infer(model, tensors(values), headers=headers, client_timeout=TIMEOUT_S, priority=2)
        facts["sync"] += differences(values, result)
    wanted = [triton.InferRequestedOutput(name) for name in ("z_UINT8", "z_BF16")]
    result = client.infer(NUMBERS, tensors(arrays(1)), outputs=wanted, headers=headers, client_timeout=TIMEOUT_S)
    facts["outputs"] = [output.name for output in result.get_response().outputs]
    best = [triton.InferRequestedOutput("z", class_count=2)]
    rows = scores([[0.5, 4, 2, 1], [1, 2, 3, 4]])
    result = client.infer(CLASSIFIER, rows, outputs=best, headers=headers, client_timeout=TIMEOUT_S)
    facts["classes"] = [[text.decode() for text in row] for row in result.as_numpy("z")]
    facts["config"] = client.get_model_config(CLASSIFIER, headers=headers, as_json=True)["config"]
    return facts


def repository(client: triton.InferenceServerClient, headers: dict[str, str], model: str = CLASSIFIER) -> dict:
    def states() -> list[tuple[str, str]]:
        index = client.get_model_repository_index(headers=headers)
        return [(entry.state, entry.reason) for entry in index.models if entry.name == model]

    facts: dict[str, Any] = {}
    client.unload_model(model, headers=headers, client_timeout=TIMEOUT_S)
    facts["unloaded"] = states()
    client.load_model(model, headers=headers, client_timeout=TIMEOUT_S)
    facts["loaded"] = states()
    try:
        client.load_model(model, headers=headers, config="{}", client_timeout=TIMEOUT_S)
    except triton.InferenceServerException as error:
        facts["override"] = [error.status(), error.message()]
    return facts


def statistics(client: triton.InferenceServerClient, headers: dict[str, str], model: str) -> dict:
    (found,) = client.get_inference_statistics(model, headers=headers, as_json=True)["model_stats"]
    return found


def counted(client: triton.InferenceServerClient, headers: dict[str, str], model: str = CLASSIFIER) -> dict:
    """Statistics before and after four requests of two rows and a bad one."""
    before = statistics(client, headers, model)
    for _ in range(4):
        client.infer(model, scores([[1, 2, 3, 4]] * 2), headers=headers, client_timeout=TIMEOUT_S)
    with contextlib.suppress(triton.InferenceServerException):
        client.infer(model, [triton.InferInput("y", [1], "FP32")], headers=headers, client_timeout=TIMEOUT_S)
    return {"before": before, "after": statistics(client, headers, model)}


def stream(client: triton.InferenceServerClient, headers: dict[str, str]) -> dict:
    """Thirty requests at once on one stream, a bad one among them."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)), headers=headers)
    sent = {str(number): arrays(number, model_of(number)) for number in range(30)}
    for number, values in sent.items():
        model = model_of(int(number))
        client.async_stream_infer(model, tensors(values), request_id=number, enable_empty_final_response=True)
    client.async_stream_infer("no_such_model", tensors(sent["0"]), request_id="lost")
    client.stop_stream()
    got = [answers.get_nowait() for _ in range(answers.qsize())]
    results = [result for result, error in got if error is None]
    return {
        "ids": sorted(int(result.get_response().id) for result in results),
        "stream": sorted({name for result in results for name in differences(sent[result.get_response().id], result)}),
        "finals": all(final_response(result) for result in results),
        "errors": [error.message() for _, error in got if error is not None],
    }


def stream_status(client: triton.InferenceServerClient, headers: dict[str, str]) -> list[str]:
    """How a stream ends whose client wants failures as its status."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(
        callback=lambda result, error: answers.put(error), headers={**headers, "triton_grpc_error": "true"}
    )
    client.async_stream_infer("no_such_model", tensors(arrays(1)), request_id="lost")
    error = answers.get(timeout=TIMEOUT_S)
    client.stop_stream()
    return [str(error.status()), error.message()]


async def aio_calls(endpoint: str, headers: dict[str, str]) -> dict:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(10):
            model = model_of(number)
            yield {"model_name": model, "inputs": tensors(arrays(number, model)), "request_id": str(number)}

    facts: dict[str, Any] = {"aio": [], "aio_stream": [], "aio_ids": []}
    async with triton_aio.InferenceServerClient(endpoint) as client:
        for model in (NUMBERS, TEXTS):
            values = arrays(2, model)
            result = await client.infer(model, tensors(values), headers=headers, client_timeout=TIMEOUT_S)
            facts["aio"] += differences(values, result)
        async for result, error in client.stream_infer(requests(), headers=headers, stream_timeout=TIMEOUT_S):
            assert error is None, error
            number = int(result.get_response().id)
            facts["aio_ids"].append(number)
            facts["aio_stream"] += differences(arrays(number, model_of(number)), result)
    return facts


def main() -> None:
    """Reads the command line, calls, writes."""
    endpoint, api_key, write_to = sys.argv[1:]
    headers = {"x-api-key": api_key}
    with triton.InferenceServerClient(endpoint) as client:
        facts = unary(client, headers)
        facts["repository"] = repository(client, headers)
        facts["statistics"] = counted(client, headers)
        facts |= stream(client, headers)
        facts["status"] = stream_status(client, headers)
    facts |= asyncio.run(aio_calls(endpoint, headers))
    Path(write_to).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
