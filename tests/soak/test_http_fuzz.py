"""Schemathesis makes requests of our own OpenAPI, right and wrong: no answer is a defect, none breaks its schema."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_client import Client
from support.folders import open_folder
from support.mesh import Mesh, running_mesh
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


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A mesh of these proofs alone: the second one may suspend and revoke what it finds."""
    with open_folder() as folder, running_mesh(folder, "--runners", "1", http=True) as running:
        yield running


@pytest.mark.parametrize(
    ("caller", "paths"),
    [
        pytest.param("the key of this machine", ".*", id="every route"),
        pytest.param("the operator's key", r"^/v1/(models|tenants?|keys|runners)\b", id="administration"),
    ],
)
def test_every_route_keeps_its_schema_whatever_is_sent(
    caller: str, paths: str, mesh: Mesh, measured: Measured, tmp_path: Path
) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    admin = (mesh.state_dir / "secrets" / "admin.key").read_text().strip()
    before = mesh.current_processes()
    run = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", config, "run", f"{mesh.http}/openapi", "--include-path-regex", paths),
            *("--header", f"x-api-key: {admin if 'operator' in caller else mesh.api_key}"),
            *("--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES)),
            *("--seed", "6", "--workers", "1", "--no-color"),
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
        f"schemathesis with {caller}, {EXAMPLES} examples a route and its schema covered, against a whole mesh",
        "no server error but 503 and 504, and no answer that breaks its schema",
        f"{cases[1]} requests to {tested[1]} routes: none",
    )
