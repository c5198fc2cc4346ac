"""The main program that every service shares: options, settings, logs, event loop, signals, exit code."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop

from headrace_common.allocator import collect_garbage_seldom, keep_freed_memory
from headrace_common.errors import ConfigError, HeadraceError
from headrace_common.logs import configure_logs
from headrace_common.settings import ENVIRONMENTS, ServiceSettings, describe_settings, load_settings
from headrace_common.tasks import TaskGuard

S = TypeVar("S", bound=ServiceSettings)

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_IMPATIENT = 130


class Stop:
    """The request to stop: a signal, or a background task that died. Event loop only."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.failed = False

    @property
    def requested(self) -> bool:
        """Whether the process was asked to stop."""
        return self._event.is_set()

    def request(self, *, failed: bool = False) -> None:
        """Asks the process to stop; with `failed` it exits 1 in the end."""
        self.failed = self.failed or failed
        self._event.set()

    async def wait(self) -> None:
        """Waits for the request."""
        await self._event.wait()

    async def wait_or_failure(self, guard: TaskGuard) -> None:
        """Waits for the request, or for a task of `guard` to die; the latter makes the process exit 1."""
        waiting = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({waiting, guard.failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if guard.failed.done():
            self.request(failed=True)


def run_service(
    name: str,
    settings_class: type[S],
    main: Callable[[S, Stop], Awaitable[None]],
    *,
    heaps: int = 1,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs `main(settings, stop)` until it returns, which it does soon after `stop` is requested.

    SIGTERM and SIGINT request the stop; a second one ends the process at once. The caller passes the result to
    `sys.exit`: 0 after an orderly end, 1 after a failure, 2 where the settings are wrong. `heaps` as for
    `keep_freed_memory`.
    """
    options = _parser(name, settings_class).parse_args(argv)
    try:
        settings = load_settings(settings_class, env=options.env, config_dir=options.config_dir)
    except ConfigError as error:
        print(f"headrace-{name}: {error.message}", file=sys.stderr)  # noqa: T201 - logs aren't configured yet
        return EXIT_CONFIG
    if options.print_config:
        for variable, value in describe_settings(settings).items():
            print(f"{variable}={value}")  # noqa: T201 - this is the command's output
        return 0
    configure_logs(service=name, level=settings.log_level, fmt=settings.log_format)
    keep_freed_memory(heaps=heaps)
    collect_garbage_seldom()
    return uvloop.run(_supervised(settings, main))


async def _supervised(settings: S, main: Callable[[S, Stop], Awaitable[None]]) -> int:
    stop = Stop()
    log = structlog.stdlib.get_logger("main")
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.requested:
            os._exit(EXIT_IMPATIENT)
        log.info("stopping", signal=number.name)
        stop.request()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await main(settings, stop)
    except HeadraceError as error:
        log.error("failed", code=error.code, reason=error.reason, message=error.message, **_extra(error))  # noqa: TRY400 - a named failure needs no trace
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
    except Exception:
        log.exception("failed")
        return EXIT_FAILED
    log.info("stopped")
    return EXIT_FAILED if stop.failed else 0


def _extra(error: HeadraceError) -> dict[str, str]:
    return {f"context_{key}": str(value) for key, value in error.context.items()}


def _parser(name: str, settings_class: type[ServiceSettings]) -> argparse.ArgumentParser:
    lines = [
        f"  {settings_class.variable(field)}\n      {info.description or ''}"
        for field, info in settings_class.model_fields.items()
    ]
    parser = argparse.ArgumentParser(
        prog=f"headrace-{name}",
        description=f"The {name} service of Headrace.",
        epilog="environment variables:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", choices=ENVIRONMENTS, help="which YAML file lies over base.yaml (or HEADRACE_ENV)")
    parser.add_argument("--config-dir", type=Path, help="folder of the YAML files (or HEADRACE_CONFIG_DIR)")
    parser.add_argument("--print-config", action="store_true", help="print the settings and exit")
    return parser
