"""From the flags of `headrace up` to a running mesh."""

from __future__ import annotations

import asyncio
import os

from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.options import DEFAULT_HTTP_PORT, MeshOptions
from headrace_cli.mesh.ports import choose_port, is_free
from headrace_cli.mesh.up import Up
from headrace_cli.mesh.up_report import UpReport
from headrace_cli.terminal import output
from headrace_common.clock import SystemClock


def run_mesh(options: MeshOptions) -> int:
    """Run a mesh until a signal ends it; gives the exit status."""
    clock = SystemClock()
    report = UpReport(console=output(), clock=clock)
    if options.http_port is not None:
        try:
            choose_port(asked=options.http_port, default=DEFAULT_HTTP_PORT, option="--http-port", is_free=is_free)
        except MeshError as error:
            report.failed(error)
            return 1
    return asyncio.run(Up(options=options, environ=dict(os.environ), clock=clock, report=report).run())
