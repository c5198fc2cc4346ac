"""Tells the types of files with an unchanged tritonclient: one batch, then one request a file over Triton's stream.

    make setup-triton
    .venv-triton/bin/python examples/triton_client.py [--endpoint HOST:PORT] [--api-key KEY] [FILE ...]

tritonclient needs an older protobuf than Headrace's services, hence an environment of its own.
"""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import argparse
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from magika_features import DEFAULT_FILES, features_by_file, print_type
from numpy.typing import NDArray

Features = dict[Path, NDArray[np.int32]]


def input_of(features: NDArray[np.int32]) -> triton.InferInput:
    """The model's input."""
    tensor = triton.InferInput("bytes", list(features.shape), "INT32")
    tensor.set_data_from_numpy(features)
    return tensor


def print_answer(path: Path, classes: NDArray[np.bytes_]) -> None:
    """With `class_count` an output is texts of the form `score:index:label`, the most probable first."""
    score, _, label = classes.flat[0].decode().split(":")
    print_type(path, label, float(score))


def one_batch(client: triton.InferenceServerClient, files: Features, headers: dict[str, str]) -> None:
    """All files as the rows of one request."""
    rows = np.concatenate(list(files.values()))
    best = triton.InferRequestedOutput("target_label", class_count=1)
    answer = client.infer("magika", [input_of(rows)], outputs=[best], headers=headers, client_timeout=30)
    for path, classes in zip(files, answer.as_numpy("target_label"), strict=True):
        print_answer(path, classes)


def stream(client: triton.InferenceServerClient, files: Features, headers: dict[str, str]) -> None:
    """A request for each file, answered in whatever order they finish: they are told apart by their ids."""
    answers: queue.SimpleQueue[tuple[triton.InferResult | None, triton.InferenceServerException | None]]
    answers = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
    best = triton.InferRequestedOutput("target_label", class_count=1)
    by_id = {str(number): path for number, path in enumerate(files, start=1)}
    for request_id, path in by_id.items():
        client.async_stream_infer("magika", [input_of(files[path])], outputs=[best], request_id=request_id)
    for _ in by_id:
        result, error = answers.get(timeout=30)
        if error is not None or result is None:
            raise error or triton.InferenceServerException("the stream ended")
        print_answer(by_id[result.get_response().id], result.as_numpy("target_label"))
    client.stop_stream()


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached."""
    parser = argparse.ArgumentParser(description="Tell the types of files with tritonclient.")
    parser.add_argument("files", nargs="*", type=Path, default=DEFAULT_FILES, help="default: files of this project")
    parser.add_argument("--endpoint", default="127.0.0.1:8081", help="gateway, default %(default)s")
    parser.add_argument("--api-key", default="community", help="default %(default)s")
    options = parser.parse_args()
    files = features_by_file(options.files)
    if not files:
        parser.error("no file holds enough to tell its type")
    headers = {"x-api-key": options.api_key}
    try:
        with triton.InferenceServerClient(options.endpoint) as client:
            one_batch(client, files, headers)
            print(f"\nthe same over a stream, {len(files)} requests:")
            stream(client, files, headers)
    except triton.InferenceServerException as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
