"""Load generator: one HTTP request again and again over so many connections, bytes in and out."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from pathlib import Path

import uvloop

from headrace_bench.load import Load, answer_counts, own_cpu_s

_OK = b"HTTP/1.1 200 "
_LENGTH = b"\r\ncontent-length: "


async def run(options: argparse.Namespace, request: bytes, count: int) -> Load:
    latencies_s: list[float] = []
    failed: Counter[str] = Counter()
    begun = 0
    host, _, port = options.address.rpartition(":")

    async def caller() -> None:
        nonlocal begun
        reader, writer = await asyncio.open_connection(host, int(port))
        while begun < count:
            begun += 1
            started_s = time.perf_counter()
            writer.write(request)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.partition(_LENGTH)[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                failed[type(error).__name__] += 1
                break
            if head.startswith(_OK) and length:
                latencies_s.append(time.perf_counter() - started_s)
            else:
                failed[head.partition(b"\r\n")[0].decode()] += 1
        writer.close()

    cpu_s, started_s = own_cpu_s(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(options.concurrency)))
    wall_s = time.perf_counter() - started_s
    return Load.of(latencies_s=latencies_s, failed=failed, wall_s=wall_s, cpu_s=own_cpu_s() - cpu_s)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--request", type=Path, required=True, help="the request as it goes over the connection")
    parser.add_argument("--concurrency", type=int, required=True)
    options = parser.parse_args()
    request = options.request.read_bytes()
    await answer_counts(lambda count: run(options, request, count))


if __name__ == "__main__":
    uvloop.run(main())
