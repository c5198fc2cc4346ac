"""A model host as the runner makes it, fed by a real ArtifactService, and requests for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray

from headrace.gateway.v1.mesh_pb2 import ModelState
from headrace.registry.v1.manifest_pb2 import ArtifactFormat, BatchingPolicy, ExecutionPolicy, Manifest
from headrace.registry.v1.models_pb2 import Version
from headrace.runner.internal.v1.mesh_pb2 import ModelEvent
from headrace_common.clock import Clock, SystemClock
from headrace_common.errors import HeadraceError
from headrace_common.lanes import PayloadParts
from headrace_common.metrics import Metrics
from headrace_common.rpc_status import from_status
from headrace_common.tasks import TaskGuard
from headrace_runner.app import build_host
from headrace_runner.artifacts.registry_source import RegistrySource
from headrace_runner.calls import Answer, IncomingCall, Outcome
from headrace_runner.config import RunnerSettings
from headrace_runner.model_host import ModelHost
from headrace_runner.tensors.datatypes import DATATYPES
from inference import open_inference_pb2 as pb
from support.artifacts import TICKET, Artifacts, artifact_service, version_of
from support.eventually import eventually

TENANT = "acme"
_CLOSE_S = 60.0


@dataclass
class RunnerUnderTest:
    """A model host, what serves its artefacts, and every event it told."""

    host: ModelHost
    artifacts: Artifacts
    metrics: Metrics
    tasks: TaskGuard
    clock: Clock
    events: list[ModelEvent] = field(default_factory=list[ModelEvent])

    def states(self, uid: str) -> list[str]:
        """The states that a version went through, without their prefix and without what told how far it is."""
        return [
            ModelState.Name(event.state).removeprefix("MODEL_STATE_")
            for event in self.events
            if event.version_uid == uid and not event.HasField("progress")
        ]

    def metric(self, name: str, **labels: str) -> float:
        """A metric's present value, 0 where it has none."""
        return self.metrics.registry.get_sample_value(f"headrace_runner_{name}", labels) or 0.0

    def want(self, version: Version, *, ttl_s: float = 60.0, ticket: str = TICKET, tenant_id: str = TENANT) -> None:
        """Wants a version as a gateway does."""
        self.host.want(tenant_id=tenant_id, version=version, ticket=ticket, ttl_s=ttl_s)

    async def load(
        self, model: str, content: bytes, *, instances: int = 0, threads: int = 0, manifest: Manifest | None = None
    ) -> Version:
        """Has a one-file ONNX model loaded and waits for it.

        Raises:
            HeadraceError: The load failed.
        """
        version = version_of(model, {"model.onnx": content}, manifest=manifest, instances=instances, threads=threads)
        self.artifacts.files["model.onnx"] = content
        self.want(version)
        await self.settled(version.uid)
        return version

    async def settled(self, uid: str) -> None:
        """Waits until a version has loaded or failed; raises the failure."""
        await eventually(lambda: self.states(uid)[-1:] in (["LOADED"], ["FAILED"]))
        event = next(event for event in reversed(self.events) if event.version_uid == uid)
        if event.state == ModelState.MODEL_STATE_FAILED:
            raise from_status(Status.FromString(event.status))

    def call(
        self,
        version: Version,
        payload: bytes,
        *,
        timeout_s: float = 100.0,
        tenant_id: str = TENANT,
        priority: int = 5,
    ) -> IncomingCall:
        """A call as the mesh hands it over."""
        deadline = self.clock.monotonic() + timeout_s
        return IncomingCall(tenant_id, version.uid, "request", "", priority, 0, deadline, payload)

    async def answer(self, call: IncomingCall) -> Answer:
        """Waits for a call's outcome; cancelling cancels the call."""
        outcome: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def ended(told: Outcome) -> None:
            if outcome.done():
                # Cancelled, and the replica is about to hear of it.
                return
            if isinstance(told, HeadraceError):
                outcome.set_exception(told)
            else:
                outcome.set_result(told)

        cancel = self.host.begin(call, ended)
        try:
            return await outcome
        except asyncio.CancelledError:
            cancel()
            raise

    async def infer(self, version: Version, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Sends arrays, FP32 and the like by their type, and gives the outputs by name."""
        answer = await self.answer(self.call(version, request_of(inputs)))
        return outputs_of(bytes(answer.payload))


def batched_manifest(*, rows: int = 0, delay_s: float = 0.0, **execution: Any) -> Manifest:
    """The manifest of an ONNX model whose first axes count rows."""
    batching = BatchingPolicy(max_batch_size=rows)
    if delay_s:
        batching.max_queue_delay.FromNanoseconds(int(delay_s * 1e9))
    return Manifest(
        format=ArtifactFormat.ARTIFACT_FORMAT_ONNX,
        backend="onnxruntime",
        batched=True,
        execution=ExecutionPolicy(batching=batching, **execution),
    )


def datatype_of(array: NDArray[Any]) -> str:
    """The protocol's name of an array's type; object arrays are BYTES, uint16 is UINT16."""
    if array.dtype.hasobject:
        return "BYTES"
    return next(data.name for data in DATATYPES.values() if data.dtype == array.dtype and data.name != "BF16")


def raw_of(array: NDArray[Any]) -> bytes:
    """An array in the protocol's raw form."""
    if array.dtype.hasobject:
        return b"".join(len(element).to_bytes(4, "little") + element for element in array.reshape(-1))
    return array.tobytes()


def request_of(
    inputs: dict[str, NDArray[Any]],
    *,
    outputs: Sequence[str] = (),
    datatypes: dict[str, str] | None = None,
    request_id: str = "",
) -> bytes:
    """A serialised request with raw contents."""
    request = pb.ModelInferRequest(model_name="ignored", id=request_id)
    for name, array in inputs.items():
        datatype = (datatypes or {}).get(name) or datatype_of(array)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw_of(array))
    for name in outputs:
        request.outputs.add(name=name)
    return request.SerializeToString()


def outputs_of(payload: bytes | PayloadParts) -> dict[str, NDArray[Any]]:
    """The outputs of a serialised response by name."""
    response = pb.ModelInferResponse.FromString(bytes(payload))
    found: dict[str, NDArray[Any]] = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            elements: list[bytes] = []
            position = 0
            while position < len(raw):
                size = int.from_bytes(raw[position : position + 4], "little")
                elements.append(raw[position + 4 : position + 4 + size])
                position += 4 + size
            flat: NDArray[Any] = np.array(elements, dtype=object)
        else:
            flat = np.frombuffer(raw, DATATYPES[output.datatype].dtype)
        found[output.name] = flat.reshape(tuple(output.shape))
    return found


@asynccontextmanager
async def running_host(folder: Path, *, clock: Clock | None = None, **settings: Any) -> AsyncGenerator[RunnerUnderTest]:
    """A host with its artefact cache in `folder`; two threads and no minimum residency unless `settings` say so."""
    values: dict[str, Any] = {"cache_dir": folder, "threads": 2, "model_stay_min_s": 0.0, **settings}
    chosen = RunnerSettings(**values)
    time = clock or SystemClock()
    metrics = Metrics()
    async with artifact_service() as (artifacts, caller), TaskGuard() as tasks:
        host = build_host(chosen, source=RegistrySource(caller=caller), tasks=tasks, clock=time, metrics=metrics)
        under_test = RunnerUnderTest(host, artifacts, metrics, tasks, time)
        host.add_listener(under_test.events.append)
        try:
            yield under_test
            if tasks.failed.done():
                raise AssertionError(f"the background task {tasks.failed.result()} died")
        finally:
            assert await host.close(grace_s=_CLOSE_S), "an execution did not end"


async def failure_of(awaitable: Any) -> HeadraceError:
    """The catalogue failure that an awaitable ends with."""
    try:
        result = await awaitable
    except HeadraceError as error:
        return error
    raise AssertionError(f"no failure but {result!r}")
