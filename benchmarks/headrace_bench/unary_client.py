"""Load generator: ModelInfer by grpc.aio, so many calls in flight, bytes in and out."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from headrace_bench.load import Load, answer_counts, own_cpu_s

INFER = "/inference.GRPCInferenceService/ModelInfer"
CALL_TIMEOUT_S = 60.0


async def run(options: argparse.Namespace, channels: list[grpc.aio.Channel], body: bytes, count: int) -> Load:
    metadata = (("x-api-key", options.api_key),)
    latencies_s: list[float] = []
    failed: Counter[str] = Counter()
    begun = 0

    async def caller(channel: grpc.aio.Channel) -> None:
        nonlocal begun
        infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        while begun < count:
            begun += 1
            started_s = time.perf_counter()
            try:
                answer = await infer(body, metadata=metadata, timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                failed[f"{error.code().name}: {error.details()}"] += 1
                continue
            if len(answer) != options.answer_bytes:
                failed[f"an answer of {len(answer)} bytes, not {options.answer_bytes}"] += 1
                continue
            latencies_s.append(time.perf_counter() - started_s)

    cpu_s, started_s = own_cpu_s(), time.perf_counter()
    await asyncio.gather(*(caller(channels[i % len(channels)]) for i in range(options.concurrency)))
    wall_s = time.perf_counter() - started_s
    return Load.of(latencies_s=latencies_s, failed=failed, wall_s=wall_s, cpu_s=own_cpu_s() - cpu_s)


async def main() -> None:
    options = arguments()
    body = options.request.read_bytes()
    # Channels to one target share a connection otherwise.
    settings = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(options.address, options=settings) for _ in range(options.connections)]
    await answer_counts(lambda count: run(options, channels, body, count))
    for channel in channels:
        await channel.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--answer-bytes", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main())
