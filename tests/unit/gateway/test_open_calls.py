"""The calls that a stream has open."""

from __future__ import annotations

from headrace_common.rpc_runtime import AdmissionGate
from headrace_gateway.inference.call import Caller
from headrace_gateway.inference.open_calls import OpenCalls
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore


async def test_the_end_of_a_stream_sends_none_of_its_calls_that_wait() -> None:
    core = GatewayCore(limits=ResilienceLimits(model_calls_max=2, tenant_calls_max=2))
    runner = core.join()
    runner.loaded(core.register("m"))
    calls = OpenCalls(inference=core.handler, gate=AdmissionGate(limit=10))
    request = oip.ModelInferRequest(model_name="m").SerializeToString()
    for tag in range(6):
        calls.add(tag)
        calls.begin(tag, request, Caller("acme", "r", "", 30.0), lambda call, _outcome: None)
    assert len(runner.received()) == 2
    calls.close()
    assert len(runner.received()) == 2
    assert (len(calls), calls.held_bytes) == (0, 0)
