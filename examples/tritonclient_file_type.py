"""Tells the types of files with an unchanged tritonclient: one batch with its sync client, then one call a file.

    python -m venv env && env/bin/pip install 'tritonclient[grpc]'
    env/bin/python examples/tritonclient_file_type.py [--endpoint HOST:PORT] [--api-key KEY] [FILE ...]

tritonclient needs an older protobuf than Headrace, hence an environment of its own; `make setup-triton` makes one.
"""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from magika_features import manifest_labels, print_table, stacked_features
from numpy.typing import NDArray

DEFAULT_FILES = [*sorted(Path(__file__).parent.glob("*.*")), Path(sys.executable)]


def _tensor(features: NDArray[np.int32]) -> triton.InferInput:
    tensor = triton.InferInput("bytes", list(features.shape), "INT32")
    tensor.set_data_from_numpy(features)
    return tensor


def classify(features: NDArray[np.int32], *, endpoint: str, api_key: str) -> NDArray[np.float32]:
    """All rows in one request of the sync client."""
    with triton.InferenceServerClient(endpoint) as client:
        answer = client.infer("magika", [_tensor(features)], headers={"x-api-key": api_key}, client_timeout=30)
        return answer.as_numpy("target_label")


async def classify_each(features: NDArray[np.int32], *, endpoint: str, api_key: str) -> NDArray[np.float32]:
    """One request a row, all at the same time, with the asyncio client."""
    async with triton_aio.InferenceServerClient(endpoint) as client:
        answers = await asyncio.gather(
            *(
                client.infer("magika", [_tensor(row[None])], headers={"x-api-key": api_key}, client_timeout=30)
                for row in features
            )
        )
    return np.concatenate([answer.as_numpy("target_label") for answer in answers])


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached."""
    parser = argparse.ArgumentParser(description="Tell the types of files with tritonclient.")
    parser.add_argument("files", nargs="*", type=Path, default=DEFAULT_FILES, help="default: this folder's files")
    parser.add_argument("--endpoint", default="127.0.0.1:8081", help="gateway, default %(default)s")
    parser.add_argument("--api-key", default="community", help="default %(default)s")
    options = parser.parse_args()
    paths, features = stacked_features([path for path in options.files if path.is_file()])
    if not paths:
        return 0
    try:
        batch = classify(features, endpoint=options.endpoint, api_key=options.api_key)
        each = asyncio.run(classify_each(features, endpoint=options.endpoint, api_key=options.api_key))
    except triton.InferenceServerException as error:
        print(error, file=sys.stderr)
        return 1
    print_table(paths, batch, manifest_labels())
    print(f"largest difference between one batch and {len(paths)} single calls: {np.abs(batch - each).max():.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
