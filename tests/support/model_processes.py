"""The processes that compute language models, found by the file that they have in memory."""

from __future__ import annotations

import contextlib

import psutil

from support.mesh import Mesh


def model_processes(mesh: Mesh, runner: str = "runner") -> dict[str, list[psutil.Process]]:
    """By the names of the runners that begin so: their processes with a GGUF in memory."""
    found: dict[str, list[psutil.Process]] = {}
    for name, process in mesh.current_processes().items():
        if name.startswith(runner):
            found[name] = []
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(process.pid).children(recursive=True)
                found[name] = [child for child in children if _has_model(child)]
    return found


def _has_model(process: psutil.Process) -> bool:
    try:
        mapped = process.memory_maps()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    # The cache names files by their digests, so the library is what tells; one that loads may not have the file yet.
    return any("xllamacpp" in region.path for region in mapped)


def resident_mib(*processes: psutil.Process) -> float:
    """Memory of processes, without what several of them share counted twice, in MiB."""
    return sum(process.memory_full_info().pss for process in processes) / (1 << 20)


def computing_s(process: psutil.Process) -> float:
    """Processor time that it has used."""
    times = process.cpu_times()
    return times.user + times.system
