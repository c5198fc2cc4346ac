"""`python -m headrace_quota`, also installed as `headrace-quota`."""

from __future__ import annotations

import sys

from headrace_common.service_main import run_service
from headrace_quota.app import run
from headrace_quota.config import QuotaSettings


def main() -> None:
    """Runs the service and exits with its code."""
    sys.exit(run_service("quota", QuotaSettings, run))


if __name__ == "__main__":
    main()
