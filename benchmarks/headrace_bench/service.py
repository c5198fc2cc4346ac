"""What is measured over the network, started here and stopped here: a bare echo server, and a mesh."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection

import grpc
import numpy as np

from headrace.registry.v1 import manifest_pb2, models_pb2, models_pb2_grpc
from headrace_bench.http_request import HttpRequest, output_of
from headrace_bench.in_process import LocalModel
from headrace_bench.models import BenchModel
from headrace_bench.unary_client import INFER
from inference.open_inference_pb2 import ModelInferResponse
from support.folders import open_folder
from support.mesh import running_mesh

_CHUNK_BYTES = 1 << 20
# The first call of a model waits until runners have loaded it.
_FIRST_CALL_S = 60.0
_STOP_S = 10.0
# Gateways follow the registry's feed.
_HEARD_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Service:
    """Where to call, and the processes whose cost counts: name to process ids."""

    address: str
    api_key: str
    processes: Mapping[str, tuple[int, ...]]

    def post(self, request: HttpRequest) -> bytes:
        """The output's bytes in the answer to one HTTP request; waits as `call` does.

        Raises:
            RuntimeError: it was refused.
        """
        host, _, port = self.address.rpartition(":")
        give_up_at = time.monotonic() + _HEARD_S
        with closing(HTTPConnection(host, int(port), timeout=_FIRST_CALL_S)) as connection:
            headers = {"x-api-key": self.api_key, **request.headers}
            while True:
                connection.request("POST", request.path, request.body, headers)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == HTTPStatus.OK:
                    return output_of({name.lower(): value for name, value in answer.getheaders()}, body)
                if answer.status != HTTPStatus.NOT_FOUND or time.monotonic() > give_up_at:
                    raise RuntimeError(f"{request.path} was answered with {answer.status}: {body[:500]!r}")
                time.sleep(_POLL_S)

    def call(self, request: bytes) -> bytes:
        """One ModelInfer, by a client of its own; it waits until the gateway has heard of the model."""
        give_up_at = time.monotonic() + _HEARD_S
        with grpc.insecure_channel(self.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
            infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
            while True:
                try:
                    return infer(request, metadata=(("x-api-key", self.api_key),), timeout=_FIRST_CALL_S)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.NOT_FOUND or time.monotonic() > give_up_at:
                        raise
                time.sleep(_POLL_S)


def child_environment() -> dict[str, str]:
    """The environment of our own processes: they find this package as we do."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@contextmanager
def echo_server() -> Generator[Service]:
    """The baseline: a grpc.aio server that answers with what it got."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace_bench.echo_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the echo server ended with {process.wait(_STOP_S)}")
        yield Service(address=address, api_key="community", processes={"echo server": (process.pid,)})
    finally:
        process.stdin.close()
        process.wait(_STOP_S)
        process.stdout.close()


@contextmanager
def mesh(
    models: Iterable[BenchModel], *, runners: int, http: bool = False
) -> Generator[tuple[Service, Service | None]]:
    """A whole mesh with these models and nothing else, as `headrace up` starts it: its gateway, and its HTTP front."""
    options = ("--no-samples", "--runners", str(runners))
    with open_folder() as folder, running_mesh(folder, *options, http=http) as running:

        def pids(name: str) -> tuple[int, ...]:
            return tuple(process.pid for process in running.named(name))

        processes = {"gateway": pids("gateway"), "runners": pids("runner")}
        service = Service(address=running.grpc, api_key=running.api_key, processes=processes)
        front = None
        if running.http is not None:
            address = running.http.removeprefix("http://")
            front = Service(address=address, api_key=running.api_key, processes={"front": pids("http"), **processes})
        with grpc.insecure_channel(running.grpc) as channel:
            for model in models:
                _push(channel, running.metadata, model)
        yield service, front


def check_answer(model: BenchModel, answer: bytes) -> int:
    """Compare an answer of the mesh with the model's own.

    Returns:
        Bytes of the output tensor.

    Raises:
        RuntimeError: it is another one.
    """
    (raw,) = ModelInferResponse.FromString(answer).raw_output_contents
    check_output(model, raw)
    return len(raw)


def check_output(model: BenchModel, raw: bytes) -> None:
    """Compare an output's bytes with the model's own.

    Raises:
        RuntimeError: it is another one.
    """
    wanted = LocalModel(model).run(model.rows(1))
    got = np.frombuffer(raw, np.float32).reshape(wanted.shape)
    if not np.allclose(got, wanted, rtol=1e-3, atol=1e-4):
        raise RuntimeError(f"the mesh answered {got} for {model.name}, ONNX Runtime says {wanted}")


def _push(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...], model: BenchModel) -> None:
    content = model.content
    batching = manifest_pb2.BatchingPolicy(max_batch_size=model.max_batch_size)
    manifest = manifest_pb2.Manifest(execution=manifest_pb2.ExecutionPolicy(batching=batching))
    header = models_pb2.UploadHeader(
        model=model.name,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        file_name=f"{model.name}.onnx",
        manifest=manifest if model.max_batch_size else None,
    )

    def messages() -> Generator[models_pb2.UploadVersionRequest]:
        yield models_pb2.UploadVersionRequest(header=header)
        for start in range(0, len(content), _CHUNK_BYTES):
            yield models_pb2.UploadVersionRequest(chunk=content[start : start + _CHUNK_BYTES])

    stub = models_pb2_grpc.ModelServiceStub(channel)
    stub.UploadVersion(messages(), metadata=metadata, timeout=_FIRST_CALL_S)
