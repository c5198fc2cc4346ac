"""Tells the types of files with magika's model on the mesh, using nothing but gRPC's generated stubs.

    .venv/bin/python examples/file_type.py [--endpoint HOST:PORT] [--api-key KEY] [FILE ...]

All files travel as the rows of one request.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc
import numpy as np
from magika_features import print_table, stacked_features

from headrace.registry.v1.models_pb2 import GetVersionRequest
from headrace.registry.v1.models_pb2_grpc import ModelServiceStub
from inference.open_inference_pb2 import ModelInferRequest
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

Tensor = ModelInferRequest.InferInputTensor
HERE = Path(__file__).parent
DEFAULT_FILES = [
    *(HERE.parent / name for name in ("README.md", "Makefile", "pyproject.toml", "buf.yaml", "LICENSE")),
    HERE / "file_type.py",
    Path(np.__file__).with_suffix(".pyi"),
    Path(sys.executable),
]


def classify(paths: list[Path], *, endpoint: str, api_key: str) -> None:
    """Sends the files to the model and prints what it takes them for."""
    known, features = stacked_features(paths)
    for path in set(paths) - set(known):
        print(f"{path}: too short to tell", file=sys.stderr)
    if not known:
        return
    metadata = (("x-api-key", api_key),)
    with grpc.insecure_channel(endpoint) as channel:
        # The names of the classes are part of the model's manifest, so they come from the registry.
        version = ModelServiceStub(channel).GetVersion(GetVersionRequest(model="magika"), metadata=metadata, timeout=10)
        request = ModelInferRequest(
            model_name="magika",
            inputs=[Tensor(name="bytes", datatype="INT32", shape=features.shape)],
            raw_input_contents=[features.tobytes()],
        )
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=metadata, timeout=30)
    scores = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)
    print_table(known, scores, list(version.version.manifest.class_labels))


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached."""
    parser = argparse.ArgumentParser(description="Tell the types of files with magika's model on the mesh.")
    parser.add_argument("files", nargs="*", type=Path, default=DEFAULT_FILES, help="default: files of this project")
    parser.add_argument("--endpoint", default="127.0.0.1:8081", help="gateway, default %(default)s")
    parser.add_argument("--api-key", default="community", help="default %(default)s")
    options = parser.parse_args()
    paths = [path for path in options.files if path.is_file()]
    try:
        classify(paths, endpoint=options.endpoint, api_key=options.api_key)
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
