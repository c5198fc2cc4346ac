"""Finds out what a folder holds, one call a file over the SDK's packed stream.

    .venv/bin/python examples/sdk_stream.py [--endpoint HOST:PORT] [--api-key KEY] [--find TYPE] [FOLDER]

Calls that wait at the same time share messages, so single calls come at a fraction of the cost of an RPC. First
`infer_many`: every file, results in order. Then `stream`: answers as they come, the rest cancelled once one is enough.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
from magika_features import REPOSITORY, features_by_file
from numpy.typing import NDArray

from headrace_client import Client, HeadraceError, InferRequest

FILES_MAX = 200
Features = dict[Path, NDArray[np.int32]]


def count_types(files: Features, labels: list[str], client: Client) -> None:
    """Prints how many files there are of each type. A call that fails is its error in the list; the others go on."""
    started_s = time.monotonic()
    requests = [InferRequest("magika", {"bytes": features}) for features in files.values()]
    results = client.infer_many(requests, return_errors=True)
    took_s = time.monotonic() - started_s
    failed = [result for result in results if isinstance(result, HeadraceError)]
    answered = [result for result in results if not isinstance(result, HeadraceError)]
    for label, count in Counter(labels[int(result["target_label"].argmax())] for result in answered).most_common():
        print(f"{count:5}  {label}")
    runners = sorted({result.execution.runner for result in answered})
    print(f"{len(answered)} of {len(files)} calls answered in {took_s:.2f} s by {', '.join(runners)}")
    for error in failed[:1]:
        print(f"the first of {len(failed)} failures: {error}", file=sys.stderr)


def find_first(wanted: str, files: Features, labels: list[str], client: Client) -> None:
    """Prints the first file of a type that an answer names, and cancels the calls that are not needed any more."""
    with client.stream() as stream:
        paths = {stream.submit("magika", {"bytes": features}): path for path, features in files.items()}
        for seen, future in enumerate(as_completed(paths), start=1):
            if labels[int(future.result()["target_label"].argmax())] == wanted:
                cancelled = sum(other.cancel() for other in paths)
                print(f"\nfirst {wanted} file: {paths[future]} (answer {seen}; {cancelled} calls cancelled)")
                return
    print(f"\nno {wanted} file among {len(files)}")


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached."""
    parser = argparse.ArgumentParser(description="Find out what a folder holds, over a packed stream.")
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY / "libs", help="default: %(default)s")
    parser.add_argument("--find", default="toml", metavar="TYPE", help="file type to look for, default %(default)s")
    parser.add_argument("--endpoint", help="gateway, such as 127.0.0.1:8081")
    parser.add_argument("--api-key", help="the key, or @FILE")
    options = parser.parse_args()
    files = features_by_file(sorted(options.folder.rglob("*.*"))[:FILES_MAX])
    try:
        with Client(options.endpoint, api_key=options.api_key) as client:
            labels = list(client.models.version("magika").manifest.class_labels)
            count_types(files, labels, client)
            find_first(options.find, files, labels, client)
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
