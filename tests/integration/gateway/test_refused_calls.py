"""What a refused call leaves behind."""

from __future__ import annotations

import gc
from typing import Any

import grpc.aio
import pytest

from headrace_common.errors import HeadraceError
from headrace_common.rpc_status import from_rpc_error
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support.gateway import COMMUNITY, Backends, fresh_name, open_door


async def test_refused_calls_leave_no_failures_to_the_collector(backends: Backends) -> None:
    """Each would bring its frames, dozens of objects, and a pass over some thousand calls' stops the gateway."""
    async with open_door(backends) as door:
        stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel)
        request = oip.ModelInferRequest(model_name=fresh_name())
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ModelInfer(request, metadata=COMMUNITY, timeout=10)
                assert from_rpc_error(caught.value).reason == "MODEL_NOT_FOUND"
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [found for found in gc.garbage if of_a_refused_call(found)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not left


def of_a_refused_call(found: object) -> bool:
    """Failures of what the gateway does beside calls, such as a feed that begins again, are no part of it."""
    if isinstance(found, HeadraceError):
        return found.reason == "MODEL_NOT_FOUND"
    return isinstance(found, grpc.aio.AbortError)
