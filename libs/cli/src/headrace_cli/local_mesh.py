"""The mesh that runs on this machine, as its supervisor publishes it in the state directory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast


def state_dir(environ: Mapping[str, str]) -> Path:
    """The state directory that `headrace up` uses without a flag."""
    return Path(environ.get("HEADRACE_STATE_DIR") or ".headrace")


def local_endpoint(environ: Mapping[str, str]) -> str | None:
    """The gateway of the mesh that runs on the state directory; None when there is none."""
    try:
        content: object = json.loads((state_dir(environ) / "mesh.json").read_text())
        mesh = cast("dict[str, Any]", content)
        os.kill(int(mesh["pid"]), 0)
        return str(mesh["grpc"])
    except (OSError, OverflowError, ValueError, KeyError, TypeError):
        # Also a process that belongs to somebody else: then the mesh that wrote the file is gone.
        return None
