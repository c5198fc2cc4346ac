"""What a large tensor costs on its way through a runner: memory, copies, and other calls' time."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from headrace.registry.v1.models_pb2 import Version
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.lanes import ByteBudget, Chunk, LaneLimits, decode_chunks, encode_chunk
from headrace_runner.mesh.session_calls import SessionCalls
from support import onnx_models
from support.runner import TENANT, RunnerUnderTest, request_of, running_host

MIB = 1 << 20
LIMITS = LaneLimits()
CALL_CHUNKS = mesh_pb2.CallFrame.CHUNKS_FIELD_NUMBER
RESULT_CHUNKS = mesh_pb2.ResultFrame.CHUNKS_FIELD_NUMBER


@dataclass
class Peer:
    """The gateway's end of a session, which keeps nothing of what comes but its bytes."""

    calls: SessionCalls
    due: asyncio.Event
    _offers: deque[mesh_pb2.Result] = field(default_factory=deque[mesh_pb2.Result])

    def begin(self, call_id: int, version: Version, payload: bytes) -> None:
        """Offers a call."""
        call = mesh_pb2.Call(
            id=call_id,
            kind=mesh_pb2.CALL_KIND_INFER,
            tenant_id=TENANT,
            version_uid=version.uid,
            timeout_ms=60_000,
            priority=5,
            payload_bytes=len(payload),
        )
        credit = mesh_pb2.Credit(messages=100, payload_bytes=1 << 30)
        self.calls.on_call_frame(mesh_pb2.CallFrame(offers=[call], credit=credit))

    def send(self, call_id: int, payload: bytes) -> None:
        """Sends the chunks of an accepted call, as frames that live no longer than their receipt."""
        frame = self._frame()
        self._offers.extend(frame.offers)
        assert call_id in frame.accepts
        for start in range(0, len(payload), LIMITS.chunk_bytes):
            part = memoryview(payload)[start : start + LIMITS.chunk_bytes]
            chunk = Chunk(call_id, part, start + len(part) == len(payload))
            for received in decode_chunks(CALL_CHUNKS, encode_chunk(CALL_CHUNKS, chunk)):
                self.calls.on_chunk(received)

    async def offered(self) -> mesh_pb2.Result:
        """The offer of a result, once it is there."""
        async with asyncio.timeout(60):
            while not self._offers:
                self.due.clear()
                self._offers.extend(self._frame().offers)
                if not self._offers:
                    await self.due.wait()
        return self._offers.popleft()

    def accept(self, *call_ids: int) -> None:
        """Lets the chunks of results come."""
        self.calls.on_call_frame(mesh_pb2.CallFrame(accepts=call_ids))

    def chunks(self) -> Iterator[Chunk]:
        """The chunks of accepted results as they come, each from a frame of its own."""
        while (chunk := self.calls.next_chunk()) is not None:
            yield from decode_chunks(RESULT_CHUNKS, encode_chunk(RESULT_CHUNKS, chunk))

    def receive(self, call_id: int) -> int:
        """Takes the chunks of a result; how many bytes there were."""
        self.accept(call_id)
        return sum(len(chunk.data) for chunk in self.chunks())

    def _frame(self) -> mesh_pb2.ResultFrame:
        return mesh_pb2.ResultFrame.FromString(self.calls.next_small_frame() or b"")


@dataclass
class Session:
    """A session with a host, and a version of a model that gives back what it gets."""

    runner: RunnerUnderTest
    version: Version
    peer: Peer


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    async with running_host(tmp_path) as runner:
        version = await runner.load("echo", onnx_models.identity("FP32", ("rows", "columns")))
        due = asyncio.Event()
        calls = SessionCalls(
            begin=runner.host.begin,
            limits=LIMITS,
            budget=ByteBudget(total_bytes=256 * MIB),
            clock=runner.clock,
            wake=due.set,
        )
        # Grants the credit that the first call needs.
        calls.next_small_frame()
        yield Session(runner, version, Peer(calls, due))
        calls.close()


@pytest.mark.parametrize("mib", [38, 63])
async def test_a_large_tensor_is_copied_once_in_and_once_out(session: Session, mib: int) -> None:
    """The one copy in is the payload, the one copy out goes from the model's output into frames.

    ONNX Runtime's own memory, such as that of the output, is none of Python's and not seen here.
    """
    payload = request_of({"x": np.ones((1, mib * MIB // 4), np.float32)})
    frames_bytes = 4 * LIMITS.chunk_bytes
    session.peer.begin(1, session.version, payload)
    tracemalloc.start()
    try:
        session.peer.send(1, payload)
        _, peak_in = tracemalloc.get_traced_memory()
        await session.peer.offered()
        _, peak_computed = tracemalloc.get_traced_memory()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        received = session.peer.receive(1)
        _, peak_out = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(payload) <= peak_in <= len(payload) + frames_bytes
    assert peak_computed <= peak_in + frames_bytes, "the tensor was copied to be computed on"
    assert peak_out - before <= frames_bytes, "the answer was put together before it was sent"
    assert received > len(payload) - MIB


async def test_calls_of_all_sizes_share_the_way_back_by_turns(session: Session) -> None:
    """A large answer is not held up by the whole of a huge one that was first."""
    sizes = {1: 32 * MIB, 2: 2 * MIB, 3: 2 * MIB}
    for call_id, size in sizes.items():
        payload = request_of({"x": np.ones((1, size // 4), np.float32)})
        session.peer.begin(call_id, session.version, payload)
        session.peer.send(call_id, payload)
    offered = {(await session.peer.offered()).id for _ in sizes}
    assert offered == sizes.keys()
    session.peer.accept(*sizes)
    ends: dict[int, int] = {}
    for number, chunk in enumerate(session.peer.chunks()):
        if chunk.last:
            ends[chunk.id] = number
    turns = 2 * MIB // LIMITS.chunk_bytes + 2
    assert ends[1] == max(ends.values())
    assert max(ends[2], ends[3]) <= 3 * turns
