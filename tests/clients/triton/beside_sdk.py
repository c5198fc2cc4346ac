"""Imports tritonclient and Headrace's SDK into one process, in the order asked for, and calls one model with both.

    beside_sdk.py ENDPOINT API_KEY INPUTS.npz OUTPUTS.npz FIRST

INPUTS holds `features` (files, 2048) for magika. FIRST is `triton` or `headrace`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np

PACKAGES = {"triton": "tritonclient.grpc", "headrace": "headrace_client"}


def main() -> None:
    """Reads the command line, calls, writes."""
    endpoint, api_key, read_from, write_to, first = sys.argv[1:]
    order = sorted(PACKAGES, key=lambda name: name != first)
    modules = {name: import_module(PACKAGES[name]) for name in order}
    triton, headrace = modules["triton"], modules["headrace"]
    with np.load(Path(read_from)) as archive:
        features = archive["features"]
    headers, by_triton, by_headrace = {"x-api-key": api_key}, [], []
    with (
        triton.InferenceServerClient(endpoint) as triton_client,
        headrace.Client(endpoint, api_key=api_key) as client,
        client.stream() as stream,
    ):
        # In turns, so that each has used its messages before the other does again.
        for row in features:
            tensor = triton.InferInput("bytes", [1, 2048], "INT32")
            tensor.set_data_from_numpy(row[None])
            answer = triton_client.infer("magika", [tensor], headers=headers, client_timeout=30)
            by_triton.append(answer.as_numpy("target_label"))
            by_headrace.append(client.infer("magika", {"bytes": row[None]})["target_label"])
        streamed = [stream.submit("magika", {"bytes": row[None]}) for row in features]
        by_stream = [future.result(30)["target_label"] for future in streamed]
    np.savez(Path(write_to), triton=by_triton, headrace=by_headrace, stream=by_stream)


if __name__ == "__main__":
    main()
