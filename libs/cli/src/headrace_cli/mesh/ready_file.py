"""How the mesh tells others where it is: one JSON file, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_cli.mesh.member import Endpoints


@dataclass(frozen=True, kw_only=True)
class RunningProcess:
    """One process as the file names it."""

    name: str
    pid: int
    endpoints: Endpoints


def ready_content(
    *, grpc: str, http: str | None, api_key: str, pid: int, control: Path, processes: Sequence[RunningProcess]
) -> dict[str, object]:
    """The file's content. `http` is a URL, or null where no process serves HTTP; `pid` is the supervisor's.

    `control` is the socket on which it takes requests.
    """
    return {
        "grpc": grpc,
        "http": http,
        "api_key": api_key,
        "pid": pid,
        "control": str(control),
        "processes": [
            {
                "name": process.name,
                "pid": process.pid,
                "metrics": process.endpoints.metrics,
                "grpc": process.endpoints.grpc,
            }
            for process in processes
        ],
    }


def write_atomically(path: Path, content: dict[str, object]) -> None:
    """Replace the file whole: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
