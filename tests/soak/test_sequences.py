"""Conversations whose state stays on runners, through two gateways at once: right, or lost and told so."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from inference.open_inference_pb2 import ModelInferRequest
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.mesh import Mesh
from support.real_inputs import SpeechCase, speech_cases
from support.refusals import refusal
from support.soak import Measured, Tensor, scrape

MODEL = "silero_vad"
CONNECTIONS = 16
TALKS = 24
FRAMES = 80
LOST = {"RUNNER_LOST", "SEQUENCE_NOT_FOUND"}
RATE = np.array(16_000, np.int64).tobytes()


def frame_request(case: SpeechCase, name: str, index: int) -> ModelInferRequest:
    request = ModelInferRequest(
        model_name=MODEL,
        inputs=[Tensor(name="input", datatype="FP32", shape=[1, 576]), Tensor(name="sr", datatype="INT64")],
        raw_input_contents=[case.frame.tobytes(), RATE],
    )
    request.parameters["sequence_id"].string_param = name
    request.parameters["sequence_start"].bool_param = index == 0
    request.parameters["sequence_end"].bool_param = index == FRAMES - 1
    return request


@dataclass
class Callers:
    """Connections to the shared port, and what became of the conversations over them."""

    mesh: Mesh
    stubs: list[GRPCInferenceServiceStub]
    ends: Counter[str] = field(default_factory=Counter[str])
    frames: int = 0

    async def talk(self, cases: list[SpeechCase], first: int) -> None:
        """Sends a conversation, each frame over the next connection; one that is lost starts again under a new name."""
        while not await self._told(cases, secrets.token_hex(8), first):
            self.ends["started again"] += 1
        self.ends["heard to the end"] += 1

    async def _told(self, cases: list[SpeechCase], name: str, first: int) -> bool:
        for index, case in enumerate(cases):
            infer: Any = self.stubs[(first + index) % len(self.stubs)].ModelInfer
            try:
                answer = await infer(frame_request(case, name, index), metadata=self.mesh.metadata, timeout=20)
            except grpc.RpcError as error:
                reason = refusal(error).reason
                self.ends[reason] += 1
                assert reason in LOST, error
                return False
            heard = np.frombuffer(answer.raw_output_contents[0], np.float32)
            np.testing.assert_allclose(heard, case.output.reshape(-1), atol=1e-5)
            self.frames += 1
        return True


def answered(mesh: Mesh) -> list[float]:
    """Frames that each gateway has answered."""
    return [
        sum(
            value
            for name, value in scrape(str(process.metrics)).items()
            if name.startswith("headrace_infer_requests_total{") and MODEL in name and 'result="OK"' in name
        )
        for process in mesh.named("gateway")
    ]


@pytest.mark.parametrize("mesh", [("--gateways", "2")], indirect=True)
async def test_conversations_go_on_at_any_gateway_and_none_is_heard_wrong(mesh: Mesh, measured: Measured) -> None:
    cases = speech_cases(200, FRAMES)
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(mesh.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(CONNECTIONS)
        ]
        callers = Callers(mesh, [GRPCInferenceServiceStub(channel) for channel in channels])
        # The first ones load the model, so that replicas come while they talk.
        await asyncio.gather(*(callers.talk(cases, first) for first in range(TALKS)))
        assert callers.ends == {"heard to the end": TALKS}
        by_gateway = await asyncio.to_thread(answered, mesh)
        assert min(by_gateway) > 0, "both gateways were used"

        callers.ends.clear()
        talks = [asyncio.create_task(callers.talk(cases, first)) for first in range(TALKS)]
        while callers.frames < TALKS * FRAMES + TALKS * FRAMES // 3:
            await asyncio.sleep(0.01)
        os.kill(mesh.current_processes()["runner-0"].pid, signal.SIGKILL)
        await asyncio.gather(*talks)
    assert callers.ends["heard to the end"] == TALKS
    assert 0 < callers.ends["started again"] < TALKS
    measured(
        "sequences through two gateways, a runner killed",
        "every frame as in-process or a clear loss",
        f"{callers.frames} frames right, {callers.ends['started again']} of {2 * TALKS} conversations started again",
    )
