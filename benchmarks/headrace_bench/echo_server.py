"""A grpc.aio server and nothing else: answers ModelInfer with the bytes of its request. Ends with its input."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
import uvloop


async def echo(request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return request


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
    # Without deserialisers: bytes come and go as they are.
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo)}
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    # No thread for it: this process is measured.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
