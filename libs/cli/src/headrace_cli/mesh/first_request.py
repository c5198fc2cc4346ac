"""The first real request to a new mesh: what a file of this installation is, asked of magika's model."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace_client import NO_RETRIES, AsyncClient, HeadraceError
from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2

# Loading a model for the first time on a cold machine belongs to the first request.
_TIMEOUT_S = 60.0
_POLL_S = 0.05
_SIDE = 1024
_NO_BYTE = 256
_BLOCK_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class FileType:
    """What the model took a file for."""

    file: Path
    label: str
    score: float
    took_s: float
    version: str


def file_features(path: Path) -> NDArray[np.int32]:
    """Magika's input for one file, shape (1, 2048): its first and last 1024 bytes without white space at the ends.

    256 stands where the file is too short to fill them.
    """
    with path.open("rb") as file:
        head = file.read(_BLOCK_BYTES).lstrip()[:_SIDE]
        file.seek(max(0, path.stat().st_size - _BLOCK_BYTES))
        tail = file.read(_BLOCK_BYTES).rstrip()[-_SIDE:]
    features = np.full((1, 2 * _SIDE), _NO_BYTE, np.int32)
    features[0, : len(head)] = np.frombuffer(head, np.uint8)
    features[0, 2 * _SIDE - len(tail) :] = np.frombuffer(tail, np.uint8)
    return features


def client_of(endpoint: str, api_key: str) -> AsyncClient:
    """A client of a mesh that is still starting: calls fail at once, and are repeated here."""
    return AsyncClient(endpoint, api_key=api_key, retry=NO_RETRIES)


async def ask_file_type(client: AsyncClient, *, model: str, version: int, file: Path) -> FileType:
    """Send one file to the model and read the answer.

    Raises:
        HeadraceError: the mesh refused it, or doesn't answer.
    """
    labels = (await client.models.version(model, version)).manifest.class_labels
    features = await asyncio.to_thread(file_features, file)
    give_up_at = time.monotonic() + _TIMEOUT_S
    while True:
        started_at = time.monotonic()
        try:
            result = await client.infer(model, {"bytes": features}, version=version, timeout_s=_TIMEOUT_S)
            break
        except HeadraceError as error:
            if time.monotonic() >= give_up_at or not error.retryable:
                raise
            await asyncio.sleep(_POLL_S)
    took_s = time.monotonic() - started_at
    scores = next(iter(result.outputs.values())).ravel()
    best = int(scores.argmax())
    return FileType(file=file, label=labels[best], score=float(scores[best]), took_s=took_s, version=result.version)


async def wait_until_complete(client: AsyncClient, *, runners: int) -> None:
    """Wait until the gateway is ready and has all runners. Each try is a real call.

    Raises:
        HeadraceError: the gateway refuses for good, or doesn't answer in time.
        TimeoutError: the runners don't come in time.
    """
    give_up_at = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            ready = await client.server.ready()
            listed = (await client.runners.list()).runners
            present = sum(runner.state == mesh_pb2.RUNNER_STATE_READY for runner in listed)
            if ready and present >= runners:
                return
            if time.monotonic() >= give_up_at:
                raise TimeoutError(f"the gateway has {present} of {runners} runners")
        except HeadraceError as error:
            if time.monotonic() >= give_up_at or not error.retryable:
                raise
        await asyncio.sleep(_POLL_S)
