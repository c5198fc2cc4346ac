"""A grpc.aio server and nothing else: answers ModelInfer with its request after a fixed time. Ends with its stdin."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio


async def main() -> None:
    delay_s = float(sys.argv[1])

    async def infer(request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(delay_s)
        return request

    handler = grpc.unary_unary_rpc_method_handler(infer)
    server = grpc.aio.server()
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
