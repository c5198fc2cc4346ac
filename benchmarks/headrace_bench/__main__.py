"""The command: `python -m headrace_bench`, or `make bench`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from headrace_bench.bench import Bench, Setup, run, settings_of
from headrace_bench.cells import FULL, QUICK, Cell, selected
from headrace_bench.load import LoadFailedError
from headrace_bench.machine import description
from headrace_bench.memory import CALLS, QUICK_CALLS, growths
from headrace_bench.profiling import ProfileFailedError, page, profiles
from headrace_bench.report import as_json, markdown, tables

_FOLDER = Path(__file__).parents[1]
_EXIT_FAILED = 1
_PROFILE_S = 8.0


def main() -> int:
    """Measure, print the tables, write the files. The exit code is 1 where a request failed."""
    options = _arguments()
    # A file or pipe is no reason to fold the lines.
    console = Console(width=None if sys.stdout.isatty() else 190)
    errors = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    try:
        cells = selected([options.profile] if options.profile else options.only)
    except ValueError as error:
        errors.print(f"{error}", style="red", markup=False)
        return _EXIT_FAILED
    effort = QUICK if options.quick else FULL
    machine = description(_FOLDER.parent)
    setup = Setup(
        runners=options.runners,
        connections=options.connections,
        streams=options.streams,
        h2load=shutil.which("h2load") if options.unary_client == "h2load" else None,
    )
    try:
        with (
            tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder,
            Bench(cells=cells, setup=setup, folder=Path(folder)) as bench,
        ):
            if options.profile:
                for cell in cells:
                    console.print(_write_profile(bench, cell, Path(folder)), markup=False, highlight=False)
                return 0
            samples = run(bench, cells, effort, say)
        calls = QUICK_CALLS if options.quick else CALLS
        memory = [] if options.only else growths(calls, say, h2load=setup.h2load)
    except (LoadFailedError, ProfileFailedError) as error:
        errors.print(f"{error}", style="red", markup=False)
        return _EXIT_FAILED
    for table in tables(samples, memory):
        console.print(table)
    if options.output is not None:
        settings = settings_of(effort, setup)
        content = as_json(samples, memory, machine, settings)
        options.output.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
        options.output.with_suffix(".md").write_text(markdown(samples, memory, machine, settings))
    return 0


def _write_profile(bench: Bench, cell: Cell, folder: Path) -> str:
    text = page(cell, profiles(bench, cell, for_s=_PROFILE_S, folder=folder))
    written = _FOLDER / "profiles" / f"{str(cell).replace(':', '-')}.txt"
    written.parent.mkdir(exist_ok=True)
    written.write_text(text)
    return f"{text}\nwritten to {written}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="headrace_bench", description="Measures a mesh on this machine.")
    parser.add_argument(
        "--profile", metavar="CELL", help="profile the processes of one cell instead, into benchmarks/profiles"
    )
    parser.add_argument("--quick", action="store_true", help="short measurements, three rounds: about two minutes")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="cells with all these parts, such as mesh-unary:tiny:64 or echo:64; may be repeated",
    )
    parser.add_argument(
        "--unary-client",
        choices=("h2load", "grpc.aio"),
        default="h2load",
        help="what makes unary calls (default h2load where it is installed)",
    )
    parser.add_argument("--runners", type=int, default=2, help="CPU runners of the mesh (default 2)")
    parser.add_argument(
        "--connections", type=int, choices=(1, 2, 4, 8, 16), default=1, help="connections of a unary client (default 1)"
    )
    parser.add_argument("--streams", type=int, default=1, help="streams of a packed client (default 1)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="writes FILE.json and FILE.md; a full run of all cells writes benchmarks/figures otherwise",
    )
    options = parser.parse_args()
    if not (options.quick or options.only or options.output):
        options.output = _FOLDER / "figures"
    return options


if __name__ == "__main__":
    sys.exit(main())
