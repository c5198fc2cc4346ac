"""Starts a gateway: `python -m headrace_gateway`."""

from __future__ import annotations

import sys

from headrace_common.service_main import run_service
from headrace_gateway.app import serve
from headrace_gateway.config import GatewaySettings


def main() -> int:
    """Runs until SIGTERM; the exit code is 0 after an orderly end."""
    return run_service("gateway", GatewaySettings, serve)


if __name__ == "__main__":
    sys.exit(main())
