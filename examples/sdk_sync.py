"""Tells the types of files with the SDK's blocking client.

    .venv/bin/python examples/sdk_sync.py [--endpoint HOST:PORT] [--api-key KEY] [FILE ...]

All files travel as the rows of one request. Without --endpoint and --api-key the SDK looks at HEADRACE_ENDPOINT,
HEADRACE_API_KEY and the profile file, then for a mesh on this machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from magika_features import DEFAULT_FILES, features_by_file, print_type

from headrace_client import Client, HeadraceError


def classify(paths: list[Path], client: Client) -> None:
    """Sends the files to the model and prints what it takes them for."""
    files = features_by_file(paths)
    if not files:
        return
    labels = client.models.version("magika").manifest.class_labels
    result = client.infer("magika", {"bytes": np.concatenate(list(files.values()))})
    for path, scores in zip(files, result["target_label"], strict=True):
        print_type(path, labels[int(scores.argmax())], float(scores.max()))
    ran = result.execution
    print(f"\n{len(files)} files, {ran.compute_s * 1e3:.1f} ms by {ran.backend} on {ran.runner} ({ran.device_type})")


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached."""
    parser = argparse.ArgumentParser(description="Tell the types of files with the SDK.")
    parser.add_argument("files", nargs="*", type=Path, default=DEFAULT_FILES, help="default: files of this project")
    parser.add_argument("--endpoint", help="gateway, such as 127.0.0.1:8081")
    parser.add_argument("--api-key", help="the key, or @FILE")
    options = parser.parse_args()
    try:
        with Client(options.endpoint, api_key=options.api_key) as client:
            classify(options.files, client)
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
