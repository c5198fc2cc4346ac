"""`/v1/infer/async` in front of a job service that a test plays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np

from headrace_client.contracts.headrace.jobs.v1 import jobs_pb2
from headrace_common import catalogue
from headrace_common.errors import ModelError
from support.http_front import http_front
from support.stream_gateway import status_of

JOBS = "/headrace.jobs.v1.JobService/"


class JobService(grpc.GenericRpcHandler):
    """Accepts everything, and tells of each job what its id says."""

    def __init__(self) -> None:
        self.submitted: list[jobs_pb2.SubmitInferenceRequest] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        methods: dict[str, Callable[[bytes], bytes]] = {
            JOBS + "SubmitInference": self.submit,
            JOBS + "GetJob": self.get,
        }
        method = methods[handler_call_details.method]

        async def answer(request: bytes, _: Any) -> bytes:
            return method(request)

        return grpc.unary_unary_rpc_method_handler(answer)

    def submit(self, request: bytes) -> bytes:
        self.submitted.append(jobs_pb2.SubmitInferenceRequest.FromString(request))
        job = job_of("PENDING")
        return jobs_pb2.SubmitInferenceResponse(job=job).SerializeToString()

    def get(self, request: bytes) -> bytes:
        return jobs_pb2.GetJobResponse(job=job_of(jobs_pb2.GetJobRequest.FromString(request).id)).SerializeToString()


def job_of(state: str) -> jobs_pb2.Job:
    job = jobs_pb2.Job(id=state, state=f"JOB_STATE_{state}", progress=0.25)  # pyright: ignore[reportArgumentType]
    job.create_time.FromJsonString("2026-01-01T00:00:00Z")
    if state == "COMPLETED":
        response = job.infer.response
        response.outputs.add(name="y", datatype="INT32", shape=[2])
        response.raw_output_contents.append(np.array([1, 2], "<i4").tobytes())
    elif state == "FAILED":
        job.error.CopyFrom(status_of(ModelError("no", entry=catalogue.MODEL_EXECUTION_FAILED)))
    if state in ("COMPLETED", "FAILED"):
        job.complete_time.FromJsonString("2026-01-01T00:00:02Z")
    return job


async def test_a_job_is_accepted_and_told_with_its_result_or_error() -> None:
    jobs = JobService()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([jobs])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with http_front(f"127.0.0.1:{port}") as http, httpx.AsyncClient(base_url=http.url, timeout=60) as client:
        inputs = {"x": {"dtype": "INT8", "data": [1]}}
        accepted = await client.post("/v1/infer/async", json={"modelId": "m:2", "inputs": inputs, "timeoutMs": 1500})
        assert (accepted.status_code, accepted.json()["status"]) == (202, "PENDING")
        assert jobs.submitted[0].inference.request.model_version == "2"
        assert jobs.submitted[0].timeout.ToMilliseconds() == 1_500
        told = {state: (await client.get(f"/v1/infer/async/{state}")).json() for state in ("COMPLETED", "FAILED")}
        done, failed = told["COMPLETED"], told["FAILED"]
        assert (done["status"], done["error"], done["completedAt"]) == ("COMPLETED", None, "2026-01-01T00:00:02Z")
        assert (done["result"]["outputs"]["y"]["data"], done["result"]["latencyMs"]) == ([1, 2], 2_000)
        assert (failed["status"], failed["result"]) == ("FAILED", None)
        assert failed["error"]["errorCode"] == "MODEL_EXECUTION_FAILED"
        running = (await client.get("/v1/infer/async/PROCESSING")).json()
        assert (running["progress"], running["completedAt"]) == (0.25, None)
    await server.stop(0)
