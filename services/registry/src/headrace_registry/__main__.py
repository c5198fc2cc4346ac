"""`python -m headrace_registry`, also installed as `headrace-registry`."""

from __future__ import annotations

import sys

from headrace_common.service_main import run_service
from headrace_registry.app import run
from headrace_registry.config import RegistrySettings


def main() -> None:
    """Runs the service and exits with its code."""
    sys.exit(run_service("registry", RegistrySettings, run))


if __name__ == "__main__":
    main()
