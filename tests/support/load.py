"""A bounded closed-loop load of inference calls, with every outcome counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse

_NEAR = 1e-4
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Outcomes:
    """What became of the calls: latencies of answered ones in seconds, statuses of the others."""

    latencies_s: list[float] = field(default_factory=list[float])
    failures: Counter[str] = field(default_factory=Counter[str])

    @property
    def answered(self) -> int:
        """Calls that got the answer they should."""
        return len(self.latencies_s)

    def quantile_ms(self, share: float) -> float:
        """A quantile of the latencies, in milliseconds."""
        return 1000 * quantile(self.latencies_s, share)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that about `share` of the values don't exceed; 1.0 gives the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def infer_stub(channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """ModelInfer on raw bytes, so that the load generator does as little as can be."""
    return channel.unary_unary(INFER)


async def closed_loop(
    channel: grpc.aio.Channel,
    request: ModelInferRequest,
    *,
    callers: int,
    until: Callable[[], bool],
    outcomes: Outcomes,
    metadata: tuple[tuple[str, str], ...],
    expected: NDArray[np.float32] | None = None,
    timeout_s: float = 20.0,
) -> None:
    """Each caller sends its next request when the one before is answered, until `until` says so.

    An answer whose first output is not `expected`, but for what a batch changes in its last digits, counts as the
    failure `WRONG_ANSWER`.
    """
    stub = infer_stub(channel)
    body = request.SerializeToString()

    async def caller() -> None:
        while not until():
            started = time.perf_counter()
            try:
                answer = await stub(body, metadata=metadata, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                outcomes.failures[f"{error.code().name}: {error.details()}"] += 1
                continue
            if expected is not None and not same(answer, expected):
                outcomes.failures["WRONG_ANSWER"] += 1
            else:
                outcomes.latencies_s.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(callers)))


def same(answer: bytes, expected: NDArray[np.float32]) -> bool:
    """Whether the first output of a serialised answer has these values, as near as batches of any size give them."""
    got = np.frombuffer(ModelInferResponse.FromString(answer).raw_output_contents[0], np.float32)
    return got.size == expected.size and bool(np.abs(got - expected.reshape(-1)).max() < _NEAR)


async def paced(
    channel: grpc.aio.Channel,
    request: ModelInferRequest,
    *,
    per_s: float,
    for_s: float,
    outcomes: Outcomes,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    """Sends at a fixed rate whatever the answers do, for a fixed time; latency counts from the planned moment."""
    stub = infer_stub(channel)
    body = request.SerializeToString()
    start = time.perf_counter()

    async def one(planned: float) -> None:
        await asyncio.sleep(planned - time.perf_counter())
        try:
            await stub(body, metadata=metadata, timeout=20.0)
        except grpc.aio.AioRpcError as error:
            outcomes.failures[f"{error.code().name}: {error.details()}"] += 1
        else:
            outcomes.latencies_s.append(time.perf_counter() - planned)

    await asyncio.gather(*(one(start + i / per_s) for i in range(int(per_s * for_s))))
