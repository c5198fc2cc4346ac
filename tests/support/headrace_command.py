"""The `headrace` command as people use it: in this process where that shows the same, as one of its own otherwise."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from headrace_cli.__main__ import main
from support.mesh import HEADRACE, Mesh

_NOWHERE = "/nonexistent"


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command left: its exit status and its words."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The answer of `--json`."""
        return json.loads(self.stdout)

    @property
    def error(self) -> Any:
        """The failure of `--json`."""
        return json.loads(self.stderr)["error"]


@dataclass(frozen=True, kw_only=True)
class Headrace:
    """Runs commands with an environment in which nothing of the machine's own settings is left."""

    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, mesh: Mesh) -> Headrace:
        """With the endpoint and the key of a mesh."""
        return cls(environment={"HEADRACE_ENDPOINT": mesh.grpc, "HEADRACE_API_KEY": mesh.api_key})

    def with_key(self, api_key: str) -> Headrace:
        """The same mesh, another caller."""
        return replace(self, environment={**self.environment, "HEADRACE_API_KEY": api_key})

    def __call__(self, *arguments: str, status: int = 0, stdin: str | bytes = "", **environment: str) -> Done:
        """Run the command's own `main` here, which spares the start of an interpreter; checks its exit status."""
        content = stdin.encode() if isinstance(stdin, str) else stdin
        out, problems = io.StringIO(), io.StringIO()
        ended: object = None
        with (
            patch.dict(os.environ, self.variables(environment), clear=True),
            patch.object(sys, "argv", ["headrace", *arguments]),
            patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(content))),
            redirect_stdout(out),
            redirect_stderr(problems),
        ):
            try:
                main()
            except SystemExit as end:
                ended = end.code
        done = Done(status=ended if isinstance(ended, int) else 0, stdout=out.getvalue(), stderr=problems.getvalue())
        return _checked(done, status)

    def process(self, *arguments: str, status: int = 0, stdin: str | bytes = "", **environment: str) -> Done:
        """Run the installed command; checks its exit status."""
        ended = subprocess.run(
            [str(HEADRACE), *arguments],
            check=False,
            capture_output=True,
            timeout=200,
            env=self.variables(environment),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
        )
        done = Done(status=ended.returncode, stdout=ended.stdout.decode(), stderr=ended.stderr.decode())
        return _checked(done, status)

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The whole environment of a command."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "XDG_"))}
        own = {"COLUMNS": "200", "HEADRACE_STATE_DIR": _NOWHERE, "XDG_CONFIG_HOME": _NOWHERE}
        return {**kept, **own, **self.environment, **(more or {})}


def _checked(done: Done, status: int) -> Done:
    assert done.status == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done
