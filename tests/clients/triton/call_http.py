"""Calls a mesh by HTTP with an unchanged tritonclient; run by the tests with .venv-triton's Python.

    call_http.py ADDRESS API_KEY OUTPUT.json

ADDRESS is host:port. The models are those of call_extensions.py. OUTPUT tells what came back. Each call has headers of
its own, for tritonclient writes its own ones into them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from call_extensions import CLASSIFIER, NUMBERS, TEXTS, arrays, differences

COMPRESSION = (None, "gzip", "deflate")


def tensors(values: dict[str, np.ndarray], *, binary: bool) -> list[triton.InferInput]:
    """Inputs as tritonclient wants them; it sends BF16 as binary tensors only."""
    made = []
    for datatype, array in values.items():
        tensor = triton.InferInput(f"x_{datatype}", list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=binary or datatype == "BF16")
        made.append(tensor)
    return made


def outputs(values: dict[str, np.ndarray], *, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(f"z_{datatype}", binary_data=binary) for datatype in values]


def for_json(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without NaN and infinities, which tritonclient writes as literals that JSON doesn't have."""
    return {
        datatype: array
        if datatype == "BYTES" or array.dtype.kind not in "fV"
        else np.nan_to_num(array.astype(np.float64), posinf=1, neginf=-1).astype(array.dtype)
        for datatype, array in values.items()
    }


def unary(client: triton.InferenceServerClient, headers: dict[str, str]) -> dict[str, Any]:
    """The datatypes that didn't come back bit by bit, for each form of request and answer."""
    facts: dict[str, Any] = {}
    for sent in ("binary", "json"):
        for asked in ("binary", "json", "default"):
            found = []
            for model in (NUMBERS, TEXTS):
                values = arrays(1, model)
                if sent == "json":
                    values = for_json(values)
                wanted = None if asked == "default" else outputs(values, binary=asked == "binary")
                given = tensors(values, binary=sent == "binary")
                result = client.infer(model, given, outputs=wanted, headers=dict(headers))
                if asked == "json":
                    # NaNs come as texts, whose payloads are lost.
                    found += unequal(values, result)
                else:
                    found += differences(values, result)
            facts[f"{sent} {asked}"] = found
    return facts


def unequal(values: dict[str, np.ndarray], result: Any) -> list[str]:
    found = []
    for datatype, sent in values.items():
        got = result.as_numpy(f"z_{datatype}")
        if datatype == "BYTES":
            same = [[text.encode() for text in row] for row in got.tolist()] == sent.tolist()
        elif sent.dtype.kind in "fV":
            same = np.array_equal(got.astype(np.float64), sent.astype(np.float64), equal_nan=True)
        else:
            same = got.dtype == sent.dtype and np.array_equal(got, sent)
        if not same:
            found.append(datatype)
    return found


def compressed(client: triton.InferenceServerClient, headers: dict[str, str]) -> list[str]:
    """What fails of each compression of request and answer."""
    failed, values = [], arrays(2)
    for sent in COMPRESSION:
        for asked in COMPRESSION:
            result = client.infer(
                NUMBERS,
                tensors(values, binary=True),
                headers=dict(headers),
                request_compression_algorithm=sent,
                response_compression_algorithm=asked,
            )
            failed += [f"{sent} {asked} {name}" for name in differences(values, result)]
    return failed


def scores(rows: list[list[float]]) -> list[triton.InferInput]:
    tensor = triton.InferInput("x", [len(rows), 4], "FP32")
    tensor.set_data_from_numpy(np.array(rows, np.float32))
    return [tensor]


def about(client: triton.InferenceServerClient, headers: dict[str, str]) -> dict[str, Any]:
    """What the client can ask about server and models."""
    best = [triton.InferRequestedOutput("z", class_count=2)]
    rows = scores([[0.5, 4, 2, 1], [1, 2, 3, 4]])
    answer = client.infer(
        CLASSIFIER, rows, outputs=best, headers=dict(headers), request_id="r-1", priority=2, timeout=20_000_000
    )
    client.unload_model(CLASSIFIER, headers=dict(headers))
    states = [client.get_model_repository_index(headers=dict(headers))]
    client.load_model(CLASSIFIER, headers=dict(headers))
    states.append(client.get_model_repository_index(headers=dict(headers)))
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "server": client.get_server_metadata(headers=dict(headers))["name"],
        "model_ready": [client.is_model_ready(name, headers=dict(headers)) for name in (CLASSIFIER, "no_such_model")],
        "version_ready": client.is_model_ready(CLASSIFIER, "1", headers=dict(headers)),
        "metadata": client.get_model_metadata(CLASSIFIER, headers=dict(headers)),
        "config": client.get_model_config(CLASSIFIER, "1", headers=dict(headers)),
        "statistics": client.get_inference_statistics(CLASSIFIER, headers=dict(headers)),
        "all_statistics": len(client.get_inference_statistics(headers=dict(headers))["model_stats"]),
        "classes": [[text.decode() for text in row] for row in answer.as_numpy("z")],
        "id": answer.get_response()["id"],
        "states": [[entry["state"] for entry in index if entry["name"] == CLASSIFIER] for index in states],
    }


def failures(client: triton.InferenceServerClient, headers: dict[str, str]) -> dict[str, list[str]]:
    """Status and message of what is refused."""

    def refusal(model: str, given: list[triton.InferInput], **options: Any) -> list[str]:
        try:
            client.infer(model, given, **{"headers": dict(headers), **options})
        except triton.InferenceServerException as error:
            return [error.status(), error.message()]
        return ["200", ""]

    not_a_number = np.full((1, 4), np.nan, np.float32)
    literal = triton.InferInput("x", [1, 4], "FP32")
    literal.set_data_from_numpy(not_a_number, binary_data=False)
    misnamed = triton.InferInput("y", [1, 4], "FP32")
    misnamed.set_data_from_numpy(not_a_number)
    row = scores([[1, 2, 3, 4]])
    found = {
        "model": refusal("no_such_model", row),
        "version": refusal(CLASSIFIER, row, model_version="7"),
        "alias": refusal(f"{CLASSIFIER}:1", row, model_version="1"),
        "input": refusal(CLASSIFIER, [misnamed]),
        "nan": refusal(CLASSIFIER, [literal]),
        "key": refusal(CLASSIFIER, row, headers={"x-api-key": "hr_wrong"}),
        "nothing": refusal(f"{CLASSIFIER}:1", row),
    }
    try:
        client.load_model(CLASSIFIER, headers=dict(headers), config="{}")
    except triton.InferenceServerException as error:
        found["override"] = [error.status(), error.message()]
    return found


async def aio_calls(address: str, headers: dict[str, str]) -> list[str]:
    found = []
    async with triton_aio.InferenceServerClient(address) as client:
        sent = [arrays(seed) for seed in range(10)]
        calls = (client.infer(NUMBERS, tensors(values, binary=True), headers=dict(headers)) for values in sent)
        for values, result in zip(sent, await asyncio.gather(*calls), strict=True):
            found += differences(values, result)
    return found


def main() -> None:
    """Reads the command line, calls, writes."""
    address, api_key, write_to = sys.argv[1:]
    headers = {"x-api-key": api_key}
    with triton.InferenceServerClient(address, network_timeout=60, connection_timeout=60) as client:
        facts = {
            "unary": unary(client, headers),
            "compressed": compressed(client, headers),
            "about": about(client, headers),
            "failures": failures(client, headers),
        }
    facts["aio"] = asyncio.run(aio_calls(address, headers))
    Path(write_to).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
