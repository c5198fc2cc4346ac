"""Calls with `buf curl`, which knows nothing but what reflection tells it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.mesh import Mesh

BUF = Path(sys.executable).with_name("buf")


def buf_curl(mesh: Mesh, *arguments: str) -> str:
    """What the command prints; fails where it does."""
    connection = ["--protocol", "grpc", "--http2-prior-knowledge", "--header", f"x-api-key: {mesh.api_key}"]
    done = subprocess.run(
        [BUF, "curl", *connection, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def documents(printed: str) -> list[dict[str, Any]]:
    """The JSON documents that follow one another."""
    found: list[dict[str, Any]] = []
    while printed := printed.lstrip():
        document, end = json.JSONDecoder().raw_decode(printed)
        found.append(document)
        printed = printed[end:]
    return found
