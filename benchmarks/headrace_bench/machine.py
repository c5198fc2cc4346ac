"""What the figures were measured on and with."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = ("grpcio", "protobuf", "uvloop", "onnxruntime", "numpy")


def description(repository: Path) -> dict[str, str]:
    """Processor, cores, memory, load, versions and commit, by name."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before the run": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "commit": _commit(repository),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit(repository: Path) -> str:
    git = shutil.which("git")
    if git is None or not (repository / ".git").exists():
        return "unknown"
    command = [git, "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout.strip() or "unknown"
