"""Tells the types of files with nothing but gRPC's generated stubs: a single call, then a packed stream by hand.

    .venv/bin/python examples/generated_stubs.py [--endpoint HOST:PORT] [--api-key KEY] [FILE ...]

This is what a client in another language does. From Python, `headrace_client` does it for you: see the sdk_* examples.
"""

from __future__ import annotations

import argparse
import queue
import sys
from pathlib import Path

import grpc
import numpy as np
from magika_features import DEFAULT_FILES, features_by_file, print_type
from numpy.typing import NDArray

from headrace.gateway.v1.inference_pb2 import InferRequest, StreamCall, StreamRequest
from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from headrace.registry.v1.models_pb2 import GetVersionRequest
from headrace.registry.v1.models_pb2_grpc import ModelServiceStub
from inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

Metadata = tuple[tuple[str, str], ...]
Features = dict[Path, NDArray[np.int32]]


def request_for(features: NDArray[np.int32]) -> ModelInferRequest:
    """Tensors travel as raw little-endian bytes; names, datatypes and shapes are those of the model's metadata."""
    return ModelInferRequest(
        model_name="magika",
        inputs=[ModelInferRequest.InferInputTensor(name="bytes", datatype="INT32", shape=features.shape)],
        raw_input_contents=[features.tobytes()],
    )


def scores_of(answer: ModelInferResponse) -> NDArray[np.float32]:
    """Probabilities of the types, a row for each row of the request."""
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)


def single_call(channel: grpc.Channel, metadata: Metadata, files: Features, labels: list[str]) -> None:
    """All files as the rows of one request."""
    rows = np.concatenate(list(files.values()))
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request_for(rows), metadata=metadata, timeout=30)
    for path, scores in zip(files, scores_of(answer), strict=True):
        print_type(path, labels[int(scores.argmax())], float(scores.max()))


def packed_stream(channel: grpc.Channel, metadata: Metadata, files: Features, labels: list[str]) -> None:
    """A call for each file, all in one message, and a cancel for the last of them in the next."""
    outgoing: queue.SimpleQueue[StreamRequest | None] = queue.SimpleQueue()
    answers = InferenceServiceStub(channel).Stream(iter(outgoing.get, None), metadata=metadata, timeout=60)

    # The server speaks first. A client that keeps below these limits is never made to wait.
    limits = next(answers).limits
    print(f"\nstream: up to {limits.calls_max} calls and {limits.bytes_max >> 20} MiB in flight")

    # The ids are ours; each must be unique among the calls in flight on this stream.
    by_id = dict(enumerate(list(files)[: limits.calls_per_message_max], start=1))
    calls: list[StreamCall] = []
    for call_id, path in by_id.items():
        call = StreamCall(id=call_id, infer=InferRequest(request=request_for(files[path])))
        call.timeout.FromSeconds(20)
        calls.append(call)
    outgoing.put(StreamRequest(calls=calls))
    outgoing.put(StreamRequest(cancels=[calls[-1].id]))

    # Each call has exactly one answer, in whatever order they end; also the one that is cancelled.
    unanswered = dict(by_id)
    while unanswered:
        for answer in next(answers).answers:
            path = unanswered.pop(answer.id)
            if answer.WhichOneof("outcome") == "error":
                print(f"{path.name:<24}  {answer.error.message}")
            else:
                scores = scores_of(answer.infer.response)[0]
                print_type(path, labels[int(scores.argmax())], float(scores.max()))

    outgoing.put(None)  # Closes our side; with no call in flight the server ends the stream.
    print(f"stream ended: {answers.code().name}")


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached."""
    parser = argparse.ArgumentParser(description="Tell the types of files with gRPC's generated stubs.")
    parser.add_argument("files", nargs="*", type=Path, default=DEFAULT_FILES, help="default: files of this project")
    parser.add_argument("--endpoint", default="127.0.0.1:8081", help="gateway, default %(default)s")
    parser.add_argument("--api-key", default="community", help="default %(default)s")
    options = parser.parse_args()
    files = features_by_file(options.files)
    if not files:
        parser.error("no file holds enough to tell its type")
    metadata = (("x-api-key", options.api_key),)
    try:
        with grpc.insecure_channel(options.endpoint) as channel:
            # The names of the types are part of the model's manifest, so they come from the registry.
            answer = ModelServiceStub(channel).GetVersion(
                GetVersionRequest(model="magika"), metadata=metadata, timeout=10
            )
            labels = list(answer.version.manifest.class_labels)
            single_call(channel, metadata, files, labels)
            packed_stream(channel, metadata, files, labels)
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
