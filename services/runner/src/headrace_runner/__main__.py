"""`python -m headrace_runner` and the command `headrace-runner`."""

from __future__ import annotations

from headrace_common.service_main import run_service
from headrace_runner.app import run
from headrace_runner.config import RunnerSettings
from headrace_runner.leave import leave
from headrace_runner.loading.heap import HEAPS


def main() -> None:
    """Starts the service and exits with its code."""
    leave(run_service("runner", RunnerSettings, run, heaps=HEAPS))


if __name__ == "__main__":
    main()
