"""Load by nghttp2's h2load, gRPC or HTTP: a client in C, so that a Python server has a core for itself."""

from __future__ import annotations

import re
import resource
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace_bench.http_request import HttpRequest
from headrace_bench.load import Load, LoadFailedError
from headrace_bench.service import Service
from headrace_bench.unary_client import CALL_TIMEOUT_S, INFER

_DATA = re.compile(r"traffic:.*headers.*, \S+ \((?P<bytes>\d+)\) data")
_FRAME_BYTES = 5
_OK = 200
_PATIENCE_S = 120.0


def grpc_frame(message: bytes) -> bytes:
    """The message as the body of a gRPC call: not compressed, with its length before it."""
    return struct.pack(">BI", 0, len(message)) + message


def data_bytes(report: str) -> int:
    """Bytes of the answers' bodies, from what h2load prints.

    Raises:
        ValueError: it is not such a report.
    """
    found = _DATA.search(report)
    if found is None:
        raise ValueError(f"not a report of h2load:\n{report}")
    return int(found["bytes"])


def summary(*, log: str, report: str, count: int, body_bytes: int | None, cpu_s: float) -> Load:
    """The load from h2load's log (start in µs, HTTP status, duration in µs) and its report.

    HTTP says 200 for failed gRPC calls, too, but those have no body: the bodies' sum tells whether all were answered.
    `body_bytes` is an answer's body with its frame; None where HTTP's status tells enough.
    """
    rows = [tuple(map(int, line.split("\t")[:3])) for line in log.splitlines()]
    answered = [(start_us, took_us) for start_us, status, took_us in rows if status == _OK]
    failed: Counter[str] = Counter()
    if lost := count - len(answered):
        failed["not answered, or not with 200"] = lost
    if body_bytes is not None and (received := data_bytes(report)) != (wanted := len(answered) * body_bytes):
        failed[f"{received} bytes of answers instead of {wanted}"] = 1
    first_us = min((start_us for start_us, _ in answered), default=0)
    last_us = max((start_us + took_us for start_us, took_us in answered), default=1)
    latencies_s = [took_us / 1e6 for _, took_us in answered]
    return Load.of(latencies_s=latencies_s, failed=failed, wall_s=(last_us - first_us) / 1e6, cpu_s=cpu_s)


class H2load:
    """Each run is a process of its own with connections of its own.

    Args:
        options: Of the program: how many connections, and what each does.
        body_bytes: As for `summary`.
    """

    def __init__(
        self,
        *,
        program: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        options: Sequence[str],
        body_bytes: int | None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headrace-bench-")
        data, self._log = Path(self._folder.name) / "body", Path(self._folder.name) / "log"
        data.write_bytes(body)
        self._command = [
            *(program, *options, f"--data={data}", f"--log-file={self._log}"),
            *(f"--header={name}: {value}" for name, value in headers.items()),
            url,
        ]
        self._body_bytes = body_bytes

    @classmethod
    def grpc(
        cls, *, program: str, service: Service, request: Path, answer_bytes: int, concurrency: int, connections: int
    ) -> H2load:
        """Calls of ModelInfer."""
        return cls(
            program=program,
            url=f"http://{service.address}{INFER}",
            headers={
                "content-type": "application/grpc",
                "te": "trailers",
                "grpc-timeout": f"{CALL_TIMEOUT_S:.0f}S",
                "x-api-key": service.api_key,
            },
            body=grpc_frame(request.read_bytes()),
            options=[f"--clients={connections}", f"--max-concurrent-streams={concurrency // connections}"],
            body_bytes=_FRAME_BYTES + answer_bytes,
        )

    @classmethod
    def http(cls, *, program: str, service: Service, request: HttpRequest, concurrency: int) -> H2load:
        """Requests over so many connections, each with one under way."""
        return cls(
            program=program,
            url=f"http://{service.address}{request.path}",
            headers={"x-api-key": service.api_key, **request.headers},
            body=request.body,
            options=["--h1", f"--clients={concurrency}", "--max-concurrent-streams=1"],
            body_bytes=None,
        )

    def run(self, count: int) -> Load:
        """Make the calls and wait for the last answer.

        Raises:
            LoadFailedError: h2load failed, or hangs.
        """
        self._log.unlink(missing_ok=True)
        cpu_s = _children_cpu_s()
        command = [*self._command, f"--requests={count}"]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise LoadFailedError(f"{count} requests were not answered within {_PATIENCE_S:.0f} s") from None
        if ended.returncode != 0:
            raise LoadFailedError(f"h2load ended with {ended.returncode}: {ended.stderr}{ended.stdout}")
        return summary(
            log=self._log.read_text(),
            report=ended.stdout,
            count=count,
            body_bytes=self._body_bytes,
            cpu_s=_children_cpu_s() - cpu_s,
        )

    def close(self) -> None:
        """Remove the log and the request."""
        self._folder.cleanup()


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
