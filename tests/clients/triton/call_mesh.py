"""Calls a mesh with tritonclient, sync and aio, and writes what it got; run by the tests with .venv-triton's Python.

    call_mesh.py ENDPOINT API_KEY INPUTS.npz OUTPUTS.npz

INPUTS holds `features` (files, 2048) for magika and `frames` (frames, 1, 576) for silero VAD.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

TIMEOUT_S = 30


def _tensor(name: str, datatype: str, values: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def _frame(frame: np.ndarray, state: np.ndarray) -> list[triton.InferInput]:
    rate = np.array(16000, np.int64)
    return [_tensor("input", "FP32", frame), _tensor("state", "FP32", state), _tensor("sr", "INT64", rate)]


def sync_calls(endpoint: str, headers: dict[str, str], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One magika call a file, one silero call a frame, and what the client can ask about server and models."""
    with triton.InferenceServerClient(endpoint) as client:
        facts = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready("magika", headers=headers),
            "server": client.get_server_metadata(headers=headers, as_json=True),
            "model": client.get_model_metadata("magika", headers=headers, as_json=True),
        }
        scores = [
            client.infer(
                "magika", [_tensor("bytes", "INT32", row[None])], headers=headers, client_timeout=TIMEOUT_S
            ).as_numpy("target_label")
            for row in inputs["features"]
        ]
        state, outputs, states = np.zeros((2, 1, 128), np.float32), [], []
        for frame in inputs["frames"]:
            answer = client.infer("silero_vad", _frame(frame, state), headers=headers, client_timeout=TIMEOUT_S)
            state = answer.as_numpy("stateN")
            outputs.append(answer.as_numpy("output"))
            states.append(state)
        try:
            client.infer("no_such_model", [_tensor("x", "FP32", np.zeros((1,), np.float32))], headers=headers)
        except triton.InferenceServerException as error:
            facts["unknown_model"] = error.status()
    return {
        "sync_scores": np.concatenate(scores),
        "sync_outputs": np.stack(outputs),
        "sync_states": np.stack(states),
        "facts": np.array(json.dumps(facts)),
    }


def _unless_lost(converse: Callable[[], list[triton.InferResult]]) -> list[triton.InferResult]:
    """A conversation; begun again when its runner stood still for so long that it no longer answers for the state."""
    for _ in range(4):
        try:
            return converse()
        except triton.InferenceServerException as error:
            if "start it with sequence_start" not in str(error):
                raise
    return converse()


def sequence_calls(endpoint: str, headers: dict[str, str], frames: np.ndarray) -> dict[str, np.ndarray]:
    """The conversation without its state on the wire: frame by frame, and all frames at once on a stream."""
    rate, last = np.array(16000, np.int64), len(frames) - 1
    inputs = [[_tensor("input", "FP32", frame), _tensor("sr", "INT64", rate)] for frame in frames]

    def marks(index: int) -> dict[str, bool]:
        return {"sequence_start": index == 0, "sequence_end": index == last}

    def talk(client: triton.InferenceServerClient) -> list[triton.InferResult]:
        return [
            client.infer(
                "silero_vad", tensors, headers=headers, client_timeout=TIMEOUT_S, sequence_id=4711, **marks(index)
            )
            for index, tensors in enumerate(inputs)
        ]

    def stream(client: triton.InferenceServerClient) -> list[triton.InferResult]:
        answers: queue.Queue = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)), headers=headers)
        for index, tensors in enumerate(inputs):
            client.async_stream_infer(
                "silero_vad", tensors, request_id=str(index), sequence_id="a conversation", **marks(index)
            )
        client.stop_stream()
        got = [answers.get_nowait() for _ in range(answers.qsize())]
        for _, error in got:
            if error is not None:
                raise error
        return sorted((result for result, _ in got), key=lambda result: int(result.get_response().id))

    with triton.InferenceServerClient(endpoint) as client:
        unary, streamed = (_unless_lost(lambda ask=ask: ask(client)) for ask in (talk, stream))
        try:
            client.infer("silero_vad", inputs[0], headers=headers, client_timeout=TIMEOUT_S, sequence_id=4711)
            status = "it was answered"
        except triton.InferenceServerException as error:
            status = error.status()
    return {
        "sequence_outputs": np.stack([answer.as_numpy("output") for answer in unary]),
        "sequence_names": np.array(
            sorted({output.name for answer in unary for output in answer.get_response().outputs})
        ),
        "sequence_stream_outputs": np.stack([result.as_numpy("output") for result in streamed]),
        "sequence_after_its_end": np.array(status),
    }


async def aio_calls(endpoint: str, headers: dict[str, str], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same inferences with the asyncio client; the files all at once, beside the frames one after another."""

    async def files(client: triton_aio.InferenceServerClient) -> np.ndarray:
        calls = (
            client.infer("magika", [_tensor("bytes", "INT32", row[None])], headers=headers, client_timeout=TIMEOUT_S)
            for row in inputs["features"]
        )
        return np.concatenate([answer.as_numpy("target_label") for answer in await asyncio.gather(*calls)])

    async def conversation(client: triton_aio.InferenceServerClient) -> tuple[np.ndarray, np.ndarray]:
        state, outputs, states = np.zeros((2, 1, 128), np.float32), [], []
        for frame in inputs["frames"]:
            answer = await client.infer("silero_vad", _frame(frame, state), headers=headers, client_timeout=TIMEOUT_S)
            state = answer.as_numpy("stateN")
            outputs.append(answer.as_numpy("output"))
            states.append(state)
        return np.stack(outputs), np.stack(states)

    async with triton_aio.InferenceServerClient(endpoint) as client:
        scores, (outputs, states) = await asyncio.gather(files(client), conversation(client))
    return {"aio_scores": scores, "aio_outputs": outputs, "aio_states": states}


def main() -> None:
    """Reads the command line, calls, writes."""
    endpoint, api_key, read_from, write_to = sys.argv[1:]
    with np.load(Path(read_from)) as archive:
        inputs = dict(archive)
    headers = {"x-api-key": api_key}
    results = sync_calls(endpoint, headers, inputs)
    results |= sequence_calls(endpoint, headers, inputs["frames"][:200])
    results |= asyncio.run(aio_calls(endpoint, headers, inputs))
    np.savez(Path(write_to), **results)


if __name__ == "__main__":
    main()
