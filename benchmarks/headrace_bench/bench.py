"""One run: starts what the chosen cells need, measures them round by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_bench import generators, http_request
from headrace_bench.cells import ECHO, HTTP, HTTP_INFER, HTTP_OPEN, IN_PROCESS, PACKED, UNARY, Cell, Effort, rounds
from headrace_bench.generators import Generator
from headrace_bench.load import LoadFailedError
from headrace_bench.measurement import Sample, measure, warmed_up
from headrace_bench.models import MODELS
from headrace_bench.service import Service, check_answer, check_output, echo_server, mesh

Say = Callable[[str], None]

_HTTP_REQUESTS = {HTTP_INFER: http_request.infer, HTTP_OPEN: http_request.open_infer}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a person may choose beside the cells.

    Attributes:
        connections: Of unary clients; never more than requests in flight.
        streams: Of packed clients, likewise.
        h2load: The program that makes unary calls; None means our own client.
    """

    runners: int = 2
    connections: int = 1
    streams: int = 1
    h2load: str | None = None


class Bench(AbstractContextManager["Bench"]):
    """The services of one run, started when it is entered. Model by model, cells are measured with `measure`."""

    def __init__(self, *, cells: Sequence[Cell], setup: Setup, folder: Path) -> None:
        """`folder` exists and gets the requests' bytes."""
        self._cells = cells
        self._setup = setup
        self._folder = folder
        self._started = ExitStack()
        self._services: dict[str, Service] = {}
        self._outputs_bytes: dict[str, int] = {}
        self._answer_bytes: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Bench:
        with self._started:
            targets = {cell.target for cell in self._cells}
            models = [MODELS[name] for name in dict.fromkeys(cell.model for cell in self._cells)]
            if ECHO in targets:
                self._services[ECHO] = self._started.enter_context(echo_server())
            if targets & {UNARY, PACKED, *HTTP}:
                started = mesh(models, runners=self._setup.runners, http=bool(targets & {*HTTP}))
                running, front = self._started.enter_context(started)
                self._services |= {UNARY: running, PACKED: running}
                if front is not None:
                    self._services |= dict.fromkeys(HTTP, front)
            for model in models:
                self._request(model.name).write_bytes(model.request)
                for target in targets & {*HTTP}:
                    check_output(model, self._services[target].post(_HTTP_REQUESTS[target](model)))
                for target in targets - {IN_PROCESS, *HTTP}:
                    answer = self._services[target].call(model.request)
                    self._answer_bytes[target, model.name] = len(answer)
                    if target == ECHO and answer != model.request:
                        raise LoadFailedError("the echo server answered something else")
                    if target != ECHO:
                        self._outputs_bytes[model.name] = check_answer(model, answer)
            self._started = self._started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def service(self, cell: Cell) -> Service | None:
        """What the cell measures; None for the model in the generator's own process."""
        return self._services.get(cell.target)

    def generator(self, cell: Cell) -> Generator:
        """A load generator for the cell, to be closed."""
        service, request = self.service(cell), self._request(cell.model)
        if service is None:
            return generators.in_process(model=cell.model, concurrency=cell.concurrency)
        if cell.target in HTTP:
            return generators.http(
                service,
                request=_HTTP_REQUESTS[cell.target](MODELS[cell.model]),
                folder=self._folder,
                concurrency=cell.concurrency,
                h2load=self._setup.h2load,
            )
        if cell.target == PACKED:
            return generators.packed(
                service,
                request=request,
                outputs_bytes=self._outputs_bytes[cell.model],
                concurrency=cell.concurrency,
                streams=self._setup.streams,
            )
        return generators.unary(
            service,
            request=request,
            answer_bytes=self._answer_bytes[cell.target, cell.model],
            concurrency=cell.concurrency,
            connections=self._setup.connections,
            h2load=self._setup.h2load,
        )

    def measure(self, cell: Cell, effort: Effort) -> Sample:
        """One measurement after a warm-up.

        Raises:
            LoadFailedError: requests failed.
        """
        service = self.service(cell)
        with closing(self.generator(cell)) as generator:
            count = warmed_up(generator, concurrency=cell.concurrency, effort=effort)
            return measure(generator, service.processes if service else {}, count)

    def _request(self, model: str) -> Path:
        return self._folder / f"{model}.request"


def run(bench: Bench, cells: Sequence[Cell], effort: Effort, say: Say) -> dict[Cell, list[Sample]]:
    """Measure all rounds.

    Raises:
        LoadFailedError: requests of a cell failed; the text names it.
    """
    samples: dict[Cell, list[Sample]] = {}
    for number, chosen in enumerate(rounds(cells, effort), start=1):
        for cell in chosen:
            try:
                sample = bench.measure(cell, effort)
            except LoadFailedError as error:
                raise LoadFailedError(f"{cell}: {error}") from error
            samples.setdefault(cell, []).append(sample)
            used = ", ".join(f"{name} {spent:.1f} µs" for name, spent in sample.cpu_us.items())
            packed = f", {sample.calls_per_message:.1f} answers a message" if cell.target == PACKED else ""
            say(f"round {number}/{effort.rounds}  {cell!s:<22} {sample.per_s:>9,.0f}/s  {used}{packed}")
    return samples


def settings_of(effort: Effort, setup: Setup) -> dict[str, Any]:
    """What a report says of how it was made."""
    return {
        "runners": setup.runners,
        "unary client": "grpc.aio" if setup.h2load is None else "h2load",
        "connections of unary clients": setup.connections,
        "streams of packed clients": setup.streams,
        "seconds a measurement": effort.measure_s,
        "seconds of warm-up": effort.warm_up_s,
    }
