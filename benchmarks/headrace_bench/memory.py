"""How the servers' memory grows: by one huge tensor there and back, and over many small requests."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace_bench import generators, usage
from headrace_bench.load import LoadFailedError
from headrace_bench.models import LARGE, LARGE_IN, MODELS
from headrace_bench.service import Service, echo_server, mesh

CALLS, QUICK_CALLS = 100_000, 5_000
_WARM_UP_SHARE = 0.1
_CONCURRENCY = 64
# A gateway gives back what huge messages left once none has come for ten to twenty seconds.
_SETTLE_S, _SETTLE_HUGE_S = 1.0, 22.0
_MIB = 1 << 20
_TINY = MODELS["tiny"]

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Resident memory of one name's processes, summed, in MiB.

    Attributes:
        what: What was asked of the service meanwhile.
        payload_mib: Size of the one tensor; 0 where many were sent.
        peak_mib: The most at any moment since `before_mib`.
        after_mib: A moment after the last answer.
    """

    process: str
    what: str
    payload_mib: float
    before_mib: float
    peak_mib: float
    after_mib: float


def growths(calls: int, say: Say, *, h2load: str | None) -> list[Growth]:
    """Measure a mesh of its own, and the echo server for comparison.

    Args:
        calls: Small requests to send.
        say: Hears what was found.
        h2load: The program that makes them; None means our own client.

    Raises:
        LoadFailedError: requests failed.
    """
    found: list[Growth] = []
    with mesh([LARGE, LARGE_IN, _TINY], runners=2) as (running, _), echo_server() as echo:
        for service in (running, echo):
            answer = service.call(_TINY.request)
            with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
                request = Path(folder) / "request"
                request.write_bytes(_TINY.request)
                generator = generators.unary(
                    service,
                    request=request,
                    answer_bytes=len(answer),
                    concurrency=_CONCURRENCY,
                    connections=1,
                    h2load=h2load,
                )
                with closing(generator):
                    generator.run(round(_WARM_UP_SHARE * calls))
                    found += _growth(service, f"{calls:,} tiny requests", 0, lambda run=generator.run: run(calls))
            size_mib = len(LARGE.request) / _MIB
            what = f"a tensor of {size_mib:.0f} MiB there and back"
            found += _growth(service, what, size_mib, lambda of=service: _echo(of))
            if service is running:
                what = f"a tensor of {size_mib:.0f} MiB, answered by one number"
                found += _growth(service, what, size_mib, lambda of=service: of.call(LARGE_IN.request))
    for growth in found:
        say(f"{growth.process}, {growth.what}: {growth.before_mib:.0f} MiB before, {growth.after_mib:.0f} after")
    return found


def _echo(service: Service) -> None:
    if not service.call(LARGE.request).endswith(LARGE.request[-_MIB:]):
        raise LoadFailedError("the tensor came back changed")


def _growth(service: Service, what: str, payload_mib: float, ask: Callable[[], object]) -> list[Growth]:
    processes = service.processes.items()
    before = {name: _resident_mib(pids) for name, pids in processes}
    for _, pids in processes:
        usage.forget_peak(pids)
    ask()
    # The peak is known by now; what stays takes longer.
    peaks = {name: usage.rss_peak_mib(pids) for name, pids in processes}
    time.sleep(_SETTLE_HUGE_S if payload_mib else _SETTLE_S)
    return [
        Growth(
            process=name,
            what=what,
            payload_mib=payload_mib,
            before_mib=before[name],
            peak_mib=peaks[name],
            after_mib=_resident_mib(pids),
        )
        for name, pids in processes
    ]


def _resident_mib(pids: tuple[int, ...]) -> float:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids) / _MIB
