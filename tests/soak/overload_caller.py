"""Calls the counting model at a fixed rate whatever the answers do, in a process of its own.

Arguments: address, key, model, calls a second, seconds, time for each call in seconds, steps of a call. The last one
may be `short,long`: then one call in twenty is long. Prints how the calls ended and after how many milliseconds, as
JSON of lists by outcome. A call that its client's deadline ended counts as `expired`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from random import Random

import grpc
import grpc.aio
import numpy as np

from headrace_common.allocator import collect_garbage_seldom
from inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from support.load import infer_stub

LONG_SHARE = 0.05
Tensor = ModelInferRequest.InferInputTensor


def counting(model: str, start: int, steps: int) -> bytes:
    """A request for `start + steps`, counted step by step."""
    return ModelInferRequest(
        model_name=model,
        inputs=[Tensor(name=name, datatype="INT64", shape=[]) for name in ("x", "y")],
        raw_input_contents=[np.array(start, np.int64).tobytes(), np.array(steps, np.int64).tobytes()],
    ).SerializeToString()


class Caller:
    """Calls, each begun at its planned moment, from which its latency counts."""

    def __init__(self, channel: grpc.aio.Channel, api_key: str, model: str, steps: tuple[int, ...]) -> None:
        self.ends: dict[str, list[float]] = defaultdict(list)
        self._stub = infer_stub(channel)
        self._metadata = (("x-api-key", api_key),)
        self._model = model
        self._steps = steps
        self._chance = Random(7)

    async def run(self, per_s: float, for_s: float, timeout_s: float) -> None:
        start = time.perf_counter()
        calls: list[asyncio.Task[None]] = []
        for number in range(int(per_s * for_s)):
            planned = start + number / per_s
            await asyncio.sleep(planned - time.perf_counter())
            calls.append(asyncio.create_task(self._call(number, planned, timeout_s)))
        await asyncio.gather(*calls)

    async def _call(self, number: int, planned: float, timeout_s: float) -> None:
        steps = self._steps[-1] if self._chance.random() < LONG_SHARE else self._steps[0]
        outcome = "answered"
        try:
            answer = await self._stub(counting(self._model, number, steps), metadata=self._metadata, timeout=timeout_s)
            (counted,) = ModelInferResponse.FromString(answer).raw_output_contents
            outcome = "answered" if int.from_bytes(counted, "little") == number + steps else "wrong"
        except grpc.aio.AioRpcError as error:
            # Whichever side notices first that the time is over.
            over = error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
            expired = over and time.perf_counter() - planned > 0.9 * timeout_s
            outcome = "expired" if expired else f"{error.code().name}: {error.details()}"
        self.ends[outcome].append(1000 * (time.perf_counter() - planned))


async def main() -> None:
    address, api_key, model, per_s, for_s, timeout_s, steps = sys.argv[1:]
    collect_garbage_seldom()
    async with grpc.aio.insecure_channel(address) as channel:
        caller = Caller(channel, api_key, model, tuple(map(int, steps.split(","))))
        await caller.run(float(per_s), float(for_s), float(timeout_s))
    sys.stdout.write(json.dumps(caller.ends))


if __name__ == "__main__":
    asyncio.run(main())
