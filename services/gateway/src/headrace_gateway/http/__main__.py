"""Starts an HTTP front: `python -m headrace_gateway.http`."""

from __future__ import annotations

import sys

from headrace_common.service_main import run_service
from headrace_gateway.http.app import serve
from headrace_gateway.http.config import HttpSettings


def main() -> int:
    """Runs until SIGTERM; the exit code is 0 after an orderly end."""
    return run_service("http", HttpSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
