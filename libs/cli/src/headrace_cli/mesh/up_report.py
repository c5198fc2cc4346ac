"""What `headrace up` says while it runs: a list with ticks and times, then one line for each thing that happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.log_files import last_lines
from headrace_cli.mesh.member import Endpoints
from headrace_common.clock import Clock

_NAME_COLUMNS = 18
_DETAIL_COLUMNS = 46


class UpReport:
    """Prints the life of one mesh; implements the supervisor's report."""

    def __init__(self, *, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock

    def _say(self, *lines: RenderableType) -> None:
        """Print; when nobody can read it any more (a closed pipe or terminal), the mesh goes on in silence."""
        try:
            self._console.print(*lines)
        except (OSError, SystemExit):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            self._console.quiet = True

    def headline(self, state: Path) -> None:
        """The first line."""
        self._say(Text.assemble(("Headrace", "name"), ("  state in ", "quiet"), (str(state), "quiet")))

    @contextmanager
    def waiting(self, what: str) -> Generator[None]:
        """A spinner on terminals while something takes its time."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with self._console.status(Text(what, style="quiet"), spinner="dots"):
            yield

    @contextmanager
    def step(self, name: str) -> Generator[list[str]]:
        """A ticked line with its time at the end of the block; the block may append details to the list."""
        started_at = self._clock.monotonic()
        details: list[str] = []
        with self.waiting(name):
            yield details
        self._tick(name, ", ".join(details), self._clock.monotonic() - started_at)

    def serving(self, name: str, endpoints: Endpoints, took_s: float, *, again: bool) -> None:
        """A member serves."""
        if again:
            self._say(Text.assemble(("  ✓ ", "good"), (name, "name"), (f" is back after {took_s:.1f} s", "")))
            return
        self._tick(name, endpoints.grpc or endpoints.http or "", took_s)

    def died(self, name: str, pid: int, how: str, pause_s: float) -> None:
        """A member ended by itself."""
        text = f" (pid {pid}) {how}; starting it again in {pause_s:.1f} s"
        self._say(Text.assemble(("  ! ", "warn"), (name, "name"), (text, "")))

    def restarting(self, name: str) -> None:
        """A member is stopped in order to be started again."""
        self._say(Text.assemble(("  ↻ ", "quiet"), (name, "name"), " is restarted"))

    def stubborn(self, name: str) -> None:
        """A member did not stop in time."""
        self._say(Text.assemble(("  ! ", "warn"), (name, "name"), " did not stop in time and was ended"))

    def not_restarted(self, name: str, why: str) -> None:
        """A start failed before the process ran."""
        self._say(Text.assemble(("  ! ", "warn"), (name, "name"), f" could not be started: {why}; trying again"))

    def notice(self, text: str) -> None:
        """Something that the person should know."""
        self._say(Text.assemble(("  ! ", "warn"), text))

    def answer(self, lines: list[Text]) -> None:
        """What the first request got."""
        for line in lines:
            self._say(Text.assemble("    ", line))

    def ready(self, *, address: str, http: str | None, api_key: str, examples: list[str], logs: Path) -> None:
        """The addresses, the key and how to go on."""
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("gRPC", style="quiet"), Text(address, style="value"))
        if http is not None:
            table.add_row(Text("HTTP", style="quiet"), Text(http, style="value"))
        table.add_row(Text("API key", style="quiet"), Text(api_key, style="value"))
        table.add_row(Text("logs", style="quiet"), Text(str(logs), style="quiet"))
        self._say("")
        if self._console.is_terminal:
            self._say(Panel(table, title="Headrace is up", title_align="left", border_style="green", expand=False))
        else:
            self._say(Text("Headrace is up"))
            self._say(table)
        self._say(Text("Try, in another terminal:", style="quiet"))
        for example in examples:
            self._say(Text("  " + example))
        self._say(Text("Ctrl-C stops everything.", style="quiet"))

    def stopping(self, why: str) -> None:
        """The mesh is being stopped."""
        self._say(Text(f"{why}: stopping"))

    def stopped(self, took_s: float) -> None:
        """Everything has ended."""
        self._say(Text.assemble(("  ✓ ", "good"), f"stopped in {took_s:.1f} s"))

    def failed(self, error: MeshError) -> None:
        """The mesh can't start."""
        self._say(Text.assemble(("  ✗ ", "bad"), str(error)))
        if error.log is not None:
            for line in last_lines(error.log):
                self._say(Text("    " + line, style="quiet"))
            self._say(Text(f"    the whole log: {error.log}", style="quiet"))

    def _tick(self, name: str, detail: str, took_s: float) -> None:
        self._say(
            Text.assemble(
                ("  ✓ ", "good"),
                (f"{name:<{_NAME_COLUMNS}} ", "name"),
                (f"{detail:<{_DETAIL_COLUMNS}} ", "value"),
                (f"{took_s:5.1f} s", "quiet"),
            )
        )
