"""From the flags of `headrace up` to a running mesh."""

from __future__ import annotations

import asyncio
import os

from headrace_cli.mesh.options import MeshOptions
from headrace_cli.mesh.up import Up
from headrace_cli.mesh.up_report import UpReport
from headrace_cli.terminal import output
from headrace_common.clock import SystemClock


def run_mesh(options: MeshOptions) -> int:
    """Run a mesh until a signal ends it; gives the exit status."""
    clock = SystemClock()
    report = UpReport(console=output(), clock=clock)
    return asyncio.run(Up(options=options, environ=dict(os.environ), clock=clock, report=report).run())
