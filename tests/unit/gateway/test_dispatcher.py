"""Calls that find no replica at first."""

from __future__ import annotations

import asyncio

import pytest

from headrace_common.errors import HeadraceError
from headrace_gateway.inference.call import Caller, Outcome
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


async def test_one_tenants_cold_model_leaves_room_for_another_tenants() -> None:
    core = GatewayCore()
    core.join()
    core.register("m")
    core.register("m", tenant_id="other")
    caller, other = Caller("acme", "r", "", 30.0), Caller("other", "r", "", 30.0)
    begun = [core.handler.begin(REQUEST, caller, lambda call, outcome: None) for _ in range(5)]
    with pytest.raises(HeadraceError) as caught:
        core.handler.begin(REQUEST, caller, lambda call, outcome: None)
    assert (caught.value.reason, caught.value.context["limit"]) == ("RUNNER_OVERLOADED", 5)
    begun.append(core.handler.begin(REQUEST, other, lambda call, outcome: None))
    for call in begun:
        core.handler.cancel(call)
    for _ in range(3):
        await asyncio.sleep(0)
    begun = [core.handler.begin(REQUEST, caller, lambda call, outcome: None) for _ in range(5)]
    for call in begun:
        core.handler.cancel(call)
