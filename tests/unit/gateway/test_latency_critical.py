"""A call that says that it is latency-critical, from its request to its replica."""

from __future__ import annotations

import pytest

from headrace.registry.v1 import manifest_pb2
from headrace_common.errors import HeadraceError
from headrace_gateway.inference.call import Caller
from headrace_gateway.inference.request_fields import RequestFieldReader
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner

CALLER = Caller("acme", "r", "", 30.0)


def request(**parameters: oip.InferParameter) -> bytes:
    return oip.ModelInferRequest(model_name="m", parameters=parameters).SerializeToString()


def cheap_and_fast(core: GatewayCore) -> tuple[Runner, Runner]:
    """Two replicas of a model whose calls go to the cheaper one."""
    manifest = manifest_pb2.Manifest(backend="onnxruntime", batched=True)
    manifest.routing.choice = manifest_pb2.REPLICA_CHOICE_CHEAPEST
    uid = core.register("m", manifest=manifest)
    cheap, fast = core.join("cheap"), core.join("fast")
    fast.session.hello.device.type = "cuda"
    for runner in (cheap, fast):
        runner.loaded(uid)
    return cheap, fast


async def test_it_goes_to_the_fast_replica_where_others_go_to_the_cheap_one() -> None:
    core = GatewayCore()
    cheap, fast = cheap_and_fast(core)
    yes, no = oip.InferParameter(bool_param=True), oip.InferParameter(bool_param=False)
    for payload in (request(), request(latency_critical=no), request(priority=oip.InferParameter(int64_param=4))):
        core.handler.begin(payload, CALLER, lambda call, outcome: None)
    assert (len(cheap.received()), len(fast.received())) == (3, 0)
    core.handler.begin(request(latency_critical=yes), CALLER, lambda call, outcome: None)
    core.handler.begin(request(priority=oip.InferParameter(int64_param=3)), CALLER, lambda call, outcome: None)
    assert (len(cheap.received()), len(fast.received())) == (3, 2)


@pytest.mark.parametrize(
    "value",
    [oip.InferParameter(int64_param=1), oip.InferParameter(string_param="true"), oip.InferParameter()],
)
def test_what_is_no_bool_is_refused_by_its_path(value: oip.InferParameter) -> None:
    with pytest.raises(HeadraceError) as caught:
        RequestFieldReader().read(request(latency_critical=value))
    assert (caught.value.reason, caught.value.field) == ("PARAMETER_INVALID", "parameters.latency_critical")
