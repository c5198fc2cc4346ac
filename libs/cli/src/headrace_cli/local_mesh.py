"""The mesh that runs on this machine, as its supervisor publishes it in the state directory."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast


def state_dir(environ: Mapping[str, str]) -> Path:
    """The state directory that `headrace up` uses without a flag."""
    return Path(environ.get("HEADRACE_STATE_DIR") or ".headrace")


def local_endpoint(environ: Mapping[str, str]) -> str | None:
    """The gateway of the mesh that runs on the state directory; None when there is none.

    Whoever is called gets the caller's key, and the folder may be anybody's, unpacked or shared: so the file must be
    the user's own, its supervisor must run, and the address must be of this machine.
    """
    try:
        endpoint = str(_mesh(state_dir(environ))["grpc"])
        return endpoint if _is_loopback(endpoint) else None
    except (OSError, OverflowError, ValueError, KeyError, TypeError):
        # Also a process that belongs to somebody else: then the mesh that wrote the file is gone.
        return None


def control_socket(folder: Path) -> Path | None:
    """Where the supervisor of the mesh that runs on a state directory takes requests; None when there is none."""
    try:
        return Path(str(_mesh(folder)["control"]))
    except (OSError, OverflowError, ValueError, KeyError, TypeError):
        return None


def _mesh(folder: Path) -> dict[str, Any]:
    """What the supervisor published. Raises one of several errors where none runs or the file isn't the user's."""
    content: object = json.loads(_own_content(folder / "mesh.json"))
    mesh = cast("dict[str, Any]", content)
    pid = int(mesh["pid"])
    if pid <= 0:
        raise ValueError(pid)
    os.kill(pid, 0)
    return mesh


def _own_content(path: Path) -> str:
    with path.open() as file:
        if os.fstat(file.fileno()).st_uid != os.getuid():
            raise PermissionError(f"{path} belongs to somebody else")
        return file.read()


def _is_loopback(endpoint: str) -> bool:
    """Whether it is `address:port` with an address, not a name, that never leaves the machine."""
    host, _, port = endpoint.rpartition(":")
    return port.isascii() and port.isdigit() and ipaddress.ip_address(host.strip("[]")).is_loopback
