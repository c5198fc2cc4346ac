"""Starting load generators: our own as child processes, or h2load where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from headrace_bench.h2load import H2load
from headrace_bench.http_request import HttpRequest
from headrace_bench.load import Load, LoadFailedError
from headrace_bench.service import Service, child_environment

_END_S = 10.0


class Generator(Protocol):
    """Makes so many calls and reports, as often as it is asked."""

    def run(self, count: int) -> Load:
        """Make the calls and wait for the last answer."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class ChildGenerator:
    """A module of ours that serves counts, see `load.answer_counts`."""

    def __init__(self, module: str, options: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"headrace_bench.{module}", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            text=True,
        )

    def run(self, count: int) -> Load:
        """Make the calls and wait for the last answer.

        Raises:
            LoadFailedError: the generator ended; it has said why.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise LoadFailedError(f"the load generator ended with {process.wait(_END_S)}")
        return Load(**json.loads(line))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def in_process(*, model: str, concurrency: int) -> Generator:
    return ChildGenerator("in_process", ["--model", model, "--concurrency", str(concurrency)])


def unary(
    service: Service, *, request: Path, answer_bytes: int, concurrency: int, connections: int, h2load: str | None
) -> Generator:
    """ModelInfer calls by the program `h2load`; by grpc.aio where it is None."""
    connections = min(connections, concurrency)
    if h2load is not None:
        return H2load.grpc(
            program=h2load,
            service=service,
            request=request,
            answer_bytes=answer_bytes,
            concurrency=concurrency,
            connections=connections,
        )
    sizes = ["--answer-bytes", str(answer_bytes), "--connections", str(connections)]
    return ChildGenerator("unary_client", [*_common(service, request, concurrency), *sizes])


def http(service: Service, *, request: HttpRequest, folder: Path, concurrency: int, h2load: str | None) -> Generator:
    """HTTP requests over a connection for each in flight, by h2load or by asyncio; `folder` takes the request."""
    if h2load is not None:
        return H2load.http(program=h2load, service=service, request=request, concurrency=concurrency)
    raw = folder / f"{request.path.strip('/').replace('/', '-')}.http"
    raw.write_bytes(request.raw(host=service.address, api_key=service.api_key))
    options = ["--address", service.address, "--request", str(raw), "--concurrency", str(concurrency)]
    return ChildGenerator("http_client", options)


def packed(service: Service, *, request: Path, outputs_bytes: int, concurrency: int, streams: int) -> Generator:
    sizes = ["--outputs-bytes", str(outputs_bytes), "--streams", str(streams)]
    return ChildGenerator("stream_client", [*_common(service, request, concurrency), *sizes])


def _common(service: Service, request: Path, concurrency: int) -> list[str]:
    place = ["--address", service.address, "--api-key", service.api_key]
    return [*place, "--request", str(request), "--concurrency", str(concurrency)]
