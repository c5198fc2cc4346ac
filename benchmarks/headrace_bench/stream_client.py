"""Load generator: `InferenceService.Stream`, so many calls in flight over a few streams, what is free is packed.

It does as little as can be for each call: a call's bytes are made once for each place in flight and sent again with
the same identifier as soon as the place is free.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from headrace.gateway.v1.inference_pb2 import StreamLimits, StreamRequest, StreamResponse
from headrace_bench.load import Load, answer_counts, own_cpu_s

STREAM = "/headrace.gateway.v1.InferenceService/Stream"
# Of three bytes on the wire, as those of a client that has counted for a while.
_FIRST_ID = 100_000
_PATIENCE_S = 60.0


def packed_call(call_id: int, request: bytes) -> bytes:
    """The field `calls` of a StreamRequest with one inference, from a serialised ModelInferRequest."""
    message = StreamRequest()
    message.calls.add(id=call_id).infer.request.MergeFromString(request)
    return message.SerializeToString()


class Quota:
    """The calls of one run that no stream has begun yet, and what became of the others."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.unanswered = count
        self.messages = 0
        self.latencies_s: list[float] = []
        self.failed: Counter[str] = Counter()
        self.all_answered = asyncio.Event()

    def take(self, wanted: int) -> int:
        """How many of the wanted calls may begin."""
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


class PackedStream:
    """One stream with a fixed number of places in flight."""

    def __init__(self, *, call: Any, bodies: Sequence[bytes], outputs_bytes: int) -> None:
        self._call = call
        self._bodies = bodies
        self._outputs_bytes = outputs_bytes
        self._free = list(range(len(bodies)))
        self._sent_s = [0.0] * len(bodies)
        self._wake = asyncio.Event()
        self._quota = Quota(0)
        self._pack_max = 1

    async def open(self) -> asyncio.Task[None]:
        """Wait for the server's limits; gives the task that reads and writes from then on."""
        first = await self._message()
        if not first.HasField("limits"):
            raise SystemExit("the stream's first message has no limits")
        self._pack_max = self._fitting(first.limits)
        return asyncio.ensure_future(self._both())

    def begin(self, quota: Quota) -> None:
        """Take part in a run."""
        self._quota = quota
        self._wake.set()

    def _fitting(self, limits: StreamLimits) -> int:
        """Calls that a message may have. A stream that would have to pause measures something else."""
        size = max(map(len, self._bodies))
        if len(self._bodies) > min(limits.calls_max, limits.bytes_max // size):
            raise SystemExit(f"{len(self._bodies)} calls of {size} bytes are more than a stream takes: {limits}")
        return min(limits.calls_per_message_max, limits.message_bytes_max // size)

    async def _both(self) -> None:
        await asyncio.gather(self._write(), self._read())

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while number := self._quota.take(min(len(self._free), self._pack_max)):
                places, self._free = self._free[:number], self._free[number:]
                now_s = time.perf_counter()
                for place in places:
                    self._sent_s[place] = now_s
                await self._call.write(b"".join([self._bodies[place] for place in places]))

    async def _read(self) -> None:
        while True:
            self._take(await self._message())

    async def _message(self) -> StreamResponse:
        try:
            raw = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise SystemExit(f"the stream ended: {error.code().name}, {error.details()}") from None
        if raw is grpc.aio.EOF:
            raise SystemExit("the server ended the stream")
        return StreamResponse.FromString(raw)

    def _take(self, response: StreamResponse) -> None:
        quota, now_s = self._quota, time.perf_counter()
        for answer in response.answers:
            place = answer.id - _FIRST_ID
            if answer.HasField("error"):
                quota.failed[f"{answer.error.code}: {answer.error.message}"] += 1
            elif sum(map(len, answer.infer.response.raw_output_contents)) != self._outputs_bytes:
                quota.failed["an answer of another size"] += 1
            else:
                quota.latencies_s.append(now_s - self._sent_s[place])
            self._free.append(place)
        quota.messages += bool(response.answers)
        quota.unanswered -= len(response.answers)
        if not quota.unanswered:
            quota.all_answered.set()
        self._wake.set()


async def run(streams: Sequence[PackedStream], tasks: Sequence[asyncio.Task[None]], count: int) -> Load:
    quota = Quota(count)
    cpu_s, started_s = own_cpu_s(), time.perf_counter()
    for stream in streams:
        stream.begin(quota)
    answered = asyncio.ensure_future(quota.all_answered.wait())
    done, _ = await asyncio.wait({answered, *tasks}, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    wall_s = time.perf_counter() - started_s
    for task in done - {answered}:
        task.result()
    if not done:
        quota.failed["no answer in time"] += quota.unanswered
    return Load.of(
        latencies_s=quota.latencies_s,
        failed=quota.failed,
        wall_s=wall_s,
        cpu_s=own_cpu_s() - cpu_s,
        messages=quota.messages,
    )


async def main() -> None:
    options = arguments()
    request: bytes = options.request.read_bytes()
    settings = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(options.address, options=settings) as channel:
        open_stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(STREAM)
        number = min(options.streams, options.concurrency)
        streams = [
            PackedStream(
                call=open_stream(metadata=(("x-api-key", options.api_key),)),
                bodies=[
                    packed_call(_FIRST_ID + place, request)
                    for place in range(options.concurrency // number + (index < options.concurrency % number))
                ],
                outputs_bytes=options.outputs_bytes,
            )
            for index in range(number)
        ]
        tasks = [await stream.open() for stream in streams]
        await answer_counts(lambda count: run(streams, tasks, count))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--outputs-bytes", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main())
