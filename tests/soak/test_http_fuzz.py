"""Schemathesis makes requests of our own OpenAPI, right and wrong: no answer is a defect, none breaks its schema."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from headrace_client import Client
from support.folders import open_folder
from support.mesh import running_mesh
from support.soak import Measured

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
EXAMPLES = 40
"""Of each route, beside those that cover its schema."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
# 503: no job service; 504: a request may state a millisecond as its time.
CONFIG = """
[parameters]
"path.model" = ["silero_vad", "smollm2", "nowhere"]
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "503", "504"]
"""


def test_every_route_keeps_its_schema_whatever_is_sent(measured: Measured, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    with open_folder() as folder, running_mesh(folder, "--runners", "1", http=True) as mesh:
        before = mesh.current_processes()
        run = subprocess.run(
            [
                *(SCHEMATHESIS, "--config-file", config, "run", f"{mesh.http}/openapi"),
                *("--header", f"x-api-key: {mesh.api_key}", "--checks", ",".join(CHECKS)),
                *("--max-examples", str(EXAMPLES), "--seed", "6", "--workers", "1", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
        assert mesh.current_processes() == before, "no process ended"
        with Client(mesh.grpc, api_key=mesh.api_key) as client:
            assert client.server.ready()
    tested, cases = (re.search(pattern, run.stdout) for pattern in (r"Tested: (\d+)", r"(\d+) generated, \1 passed"))
    assert tested is not None and cases is not None, run.stdout[-4000:]
    measured(
        f"schemathesis, {EXAMPLES} examples a route and its coverage of each schema, against a whole mesh",
        "no server error but 503 and 504, and no answer that breaks its schema",
        f"{cases[1]} requests to {tested[1]} routes: none",
    )
