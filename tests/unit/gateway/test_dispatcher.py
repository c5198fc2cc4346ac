"""Calls that find no replica at first."""

from __future__ import annotations

import asyncio

import pytest

from headrace_common.errors import HeadraceError
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore

REQUEST = oip.ModelInferRequest(model_name="m").SerializeToString()


async def test_a_replica_that_comes_before_the_wait_has_begun_gets_the_call() -> None:
    core = GatewayCore()
    runner = core.join()
    uid = core.register("m")
    outcomes: list[Outcome] = []
    core.handler.begin(REQUEST, Caller("acme", "r", "", 30.0), lambda call, outcome: outcomes.append(outcome))
    runner.loaded(uid)
    await asyncio.sleep(0)
    assert outcomes == [], "it is not refused as if the replica had no room"
    assert [call.version_uid for call in runner.received()] == [uid]


def begin(core: GatewayCore, tenant_id: str = "acme", *, windowed: bool = False) -> tuple[InferenceCall, list[Outcome]]:
    outcomes: list[Outcome] = []
    caller = Caller(tenant_id, "r", "", 30.0)
    return core.handler.begin(REQUEST, caller, lambda _, outcome: outcomes.append(outcome), windowed=windowed), outcomes


async def test_one_tenants_cold_model_leaves_room_for_another_tenants() -> None:
    core = GatewayCore(limits=ResilienceLimits(model_calls_max=3, tenant_calls_max=3, waiting_room=2))
    core.join()
    core.register("m")
    core.register("m", tenant_id="other")
    begun = [begin(core)[0] for _ in range(5)]
    with pytest.raises(HeadraceError) as caught:
        begin(core)
    assert (caught.value.reason, caught.value.context["limit"]) == ("CONCURRENCY_EXCEEDED", 5)
    begun.append(begin(core, "other")[0])
    for call in begun:
        core.handler.cancel(call)
    begun = [begin(core)[0] for _ in range(5)]
    for call in begun:
        core.handler.cancel(call)


async def test_calls_of_streams_wait_where_unary_calls_are_refused_and_one_tenant_gets_half_of_the_hall() -> None:
    core = GatewayCore(
        limits=ResilienceLimits(model_calls_max=1, tenant_calls_max=1, waiting_room=0, stream_calls_max=20)
    )
    core.join().loaded(core.register("m"))
    core.register("m", tenant_id="other")
    begin(core)
    with pytest.raises(HeadraceError, match="CONCURRENCY_EXCEEDED"):
        begin(core)
    for _ in range(10):
        begin(core, windowed=True)
    with pytest.raises(HeadraceError, match="CONCURRENCY_EXCEEDED"):
        begin(core, windowed=True)
    begin(core, "other", windowed=True)
