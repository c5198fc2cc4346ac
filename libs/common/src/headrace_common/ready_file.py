"""How a process tells its supervisor where it serves."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_ready_file(path: Path | None, *, name: str, **addresses: str | None) -> None:
    """Writes the bound addresses as JSON, atomically: a reader sees nothing or all of it. No path, no file.

    Args:
        path: Where.
        name: The process's name.
        addresses: `grpc`, `mesh`, `front`, `http` and `metrics`, as far as it listens there.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "pid": os.getpid(), **addresses}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content) + "\n")
    temporary.replace(path)
