"""What the long proofs share."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable

from inference.open_inference_pb2 import ModelInferRequest
from support.mesh import HEADRACE, Mesh

Tensor = ModelInferRequest.InferInputTensor
Measured = Callable[[str, str, str], None]
"""Takes a row of the report: what was done, what was demanded, what was measured."""


def scrape(url: str) -> dict[str, float]:
    """A process's metrics by name and labels, as they are written."""
    with urllib.request.urlopen(url, timeout=20) as response:  # noqa: S310 - a loopback URL of our own mesh
        text = response.read().decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def held(mesh: Mesh) -> dict[str, float]:
    """What calls hold in gateway and runners: tasks, open calls and streams, credit, places, slots, bytes."""
    gateway = scrape(str(mesh.current_processes()["gateway-0"].metrics))
    found = {
        name: gateway[name]
        for name in (
            "headrace_asyncio_tasks",
            "headrace_mesh_calls_open",
            "headrace_mesh_credit_left",
            "headrace_mesh_result_bytes_held",
        )
    }
    found["headrace_generate_streams"] = _of_all_models(gateway, "headrace_generate_streams")
    for process in mesh.named("runner"):
        runner = scrape(str(process.metrics))
        for name in ("headrace_asyncio_tasks", "headrace_runner_queue_depth", "headrace_runner_executing"):
            found[f"{process.name} {name}"] = runner[name]
        for name in ("headrace_runner_generation_slots_used", "headrace_runner_generation_queue_tokens"):
            found[f"{process.name} {name}"] = _of_all_models(runner, name)
    return found


def _of_all_models(metrics: dict[str, float], name: str) -> float:
    """The sum of a metric that models have; 0 while none has it."""
    return sum(value for full, value in metrics.items() if full.startswith(f"{name}{{"))


async def settled(mesh: Mesh, before: dict[str, float], within_s: float = 10.0) -> dict[str, float]:
    """What is held once it equals `before`, or at the end of the time."""
    give_up_at = time.monotonic() + within_s
    while (now := await asyncio.to_thread(held, mesh)) != before and time.monotonic() < give_up_at:
        await asyncio.sleep(0.1)
    return now


async def restart(mesh: Mesh) -> None:
    """Restarts everything, one process after another, as an operator does."""
    process = await asyncio.create_subprocess_exec(
        *(str(HEADRACE), "restart", "--state-dir", str(mesh.state_dir)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, said.decode(errors="replace")
