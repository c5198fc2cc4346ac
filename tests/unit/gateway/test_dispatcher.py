"""Calls that find no replica at first."""

from __future__ import annotations

import asyncio

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
