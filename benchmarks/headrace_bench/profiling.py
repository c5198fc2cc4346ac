"""Profiles of a cell's processes while it is under load, by py-spy."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace_bench.bench import Bench
from headrace_bench.cells import Cell, Effort
from headrace_bench.measurement import warmed_up
from headrace_bench.stacks import Costs, costs_of

_PY_SPY = Path(sys.executable).with_name("py-spy")
_RATE = 150
_SHOWN = 25
_NAMED = 3
# It attaches and writes beside the time that it samples for.
_MARGIN_S = 30.0


class ProfileFailedError(Exception):
    """py-spy could not look into a process."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One process under load.

    Attributes:
        cpu_share: Cores that it used meanwhile, by the names `user` and `system`.
    """

    process: str
    requests_per_s: float
    costs: Costs
    cpu_share: dict[str, float]


def profiles(bench: Bench, cell: Cell, *, for_s: float, folder: Path) -> list[Profile]:
    """Profile the first process of each kind, one after the other, each under a load of its own.

    Raises:
        LoadFailedError: requests failed.
        ProfileFailedError: py-spy is not allowed to look, or this is a cell without a server.
    """
    service = bench.service(cell)
    if service is None:
        raise ProfileFailedError(f"{cell} has no server to look into")
    effort = Effort(rounds=1, rounds_others=1, warm_up_s=1.0, measure_s=for_s)
    found: list[Profile] = []
    with closing(bench.generator(cell)) as generator:
        for name, pids in service.processes.items():
            count = warmed_up(generator, concurrency=cell.concurrency, effort=effort)
            process, output = psutil.Process(pids[0]), folder / "collapsed"
            before = process.cpu_times()
            spy = _record(process.pid, output, for_s)
            load = generator.run(count)
            after = process.cpu_times()
            said, _ = spy.communicate(timeout=for_s + _MARGIN_S)
            if spy.returncode != 0:
                raise ProfileFailedError(f"py-spy ended with {spy.returncode}: {said.strip()}")
            found.append(
                Profile(
                    process=name,
                    requests_per_s=load.per_s,
                    costs=costs_of(output.read_text()),
                    cpu_share={
                        "user": (after.user - before.user) / load.wall_s,
                        "system": (after.system - before.system) / load.wall_s,
                    },
                )
            )
    return found


def page(cell: Cell, found: Iterable[Profile]) -> str:
    """The profiles as text."""
    parts = [f"Profile of {cell} by py-spy, {_RATE} samples a second, C included; slower than without it.\n"]
    for profile in found:
        costs = profile.costs
        share = ", ".join(f"{cores:.2f} cores {kind}" for kind, cores in profile.cpu_share.items())
        parts += [
            (
                f"== {profile.process}: {profile.requests_per_s:,.0f} requests/s, {share}; "
                f"{costs.working} samples at work, {costs.waiting} waiting\n"
            ),
            f"Largest costs: {_largest(costs)}\n",
            _section(
                "By whose code ran; code of the C library and the interpreter counts for its caller",
                costs,
                costs.owners,
            ),
            _section("By the function that ran", costs, costs.functions),
            _section("By our functions, with all that they called", costs, costs.called),
        ]
    return "\n".join(parts)


def _largest(costs: Costs) -> str:
    total = max(1, costs.working)
    return ", ".join(f"{owner} {100 * samples / total:.0f} %" for owner, samples in costs.owners.most_common(_NAMED))


def _section(title: str, costs: Costs, counted: Counter[str]) -> str:
    total = max(1, costs.working)
    lines = [f"{100 * samples / total:6.1f} %  {name}" for name, samples in counted.most_common(_SHOWN)]
    return "\n".join([title, *lines, ""])


def _record(pid: int, output: Path, for_s: float) -> subprocess.Popen[str]:
    command = [str(_PY_SPY), "record", f"--pid={pid}", f"--duration={for_s:.0f}", f"--rate={_RATE}"]
    # Unwinding C works on Linux only.
    native = ["--native"] if sys.platform == "linux" else []
    return subprocess.Popen(
        [*command, *native, "--format=raw", f"--output={output}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
