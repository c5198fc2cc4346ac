"""A fresh clone, started by an ordinary user who has nothing but Python, make and git."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import psutil
import pytest

from inference.open_inference_pb2 import ModelInferRequest
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.folders import open_folder
from support.processes import Unprivileged, command_as, stop
from support.real_inputs import FileCase
from support.soak import Measured

ROOT = Path(__file__).parents[2]
FIRST_START_MAX_S = 200.0
NEXT_START_MAX_S = 60.0
STOP_MAX_S = 30.0
# How a machine reaches the package index is its own affair; nothing else of the caller's environment is passed on.
INDEX_VARIABLES = ("PIP_", "UV_INDEX", "UV_DEFAULT_INDEX", "SSL_CERT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

pytestmark = pytest.mark.timeout(330)


def python(user: Unprivileged) -> str:
    """A Python of a supported version that the user may start."""
    found = [Path(sys.base_prefix, "bin", "python3"), *(Path(p, "python3") for p in ("/usr/local/bin", "/usr/bin"))]
    for candidate in found:
        if candidate.exists() and user.can_reach(candidate):
            check = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
            if subprocess.run([str(candidate), "-c", check], check=False, capture_output=True).returncode == 0:
                return str(candidate)
    pytest.skip(f"no Python 3.11 or newer that user {user.uid} may start")


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A clone of HEAD with a home of its own, both the user's."""

    folder: Path
    user: Unprivileged
    python: str

    @property
    def log(self) -> Path:
        """What the mesh printed."""
        return self.folder / "make.log"

    @property
    def _environment(self) -> dict[str, str]:
        passed_on = {name: value for name, value in os.environ.items() if name.upper().startswith(INDEX_VARIABLES)}
        return {
            **passed_on,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
        }

    def run(self) -> subprocess.Popen[bytes]:
        """`make run` as its README tells, on a free port."""
        options = f"--state-dir {self.folder / 'state'} --grpc-port 0 --ready-file {self.folder / 'ready.json'}"
        with self.log.open("wb") as output:
            return subprocess.Popen(
                command_as(self.user, ["/usr/bin/env", "make", f"PYTHON={self.python}", "run", f"ARGS={options}"]),
                cwd=self.folder / "headrace",
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self, process: subprocess.Popen[bytes], *, within_s: float) -> dict[str, Any]:
        """What the ready file says, once it is there."""
        file, give_up_at = self.folder / "ready.json", time.monotonic() + within_s
        while not file.exists():
            assert process.poll() is None and time.monotonic() < give_up_at, self.log.read_text(errors="replace")[
                -4000:
            ]
            time.sleep(0.05)
        return cast("dict[str, Any]", json.loads(file.read_text()))


@pytest.fixture
def clone() -> Iterator[Clone]:
    """HEAD, cloned into a folder that every account may traverse; run by root, it belongs to `nobody`."""
    user = Unprivileged.current()
    interpreter = python(user)
    with open_folder() as folder:
        (folder / "home").mkdir()
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder / "headrace")], check=True)
        if user.uid:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, user.uid, user.gid, follow_symlinks=False)
        yield Clone(folder=folder, user=user, python=interpreter)


def start_ask_stop(clone: Clone, case: FileCase, *, within_s: float) -> float:
    """One whole life of the mesh; returns the seconds from the command to the ready file."""
    started_at = time.monotonic()
    process = clone.run()
    try:
        ready = clone.ready(process, within_s=within_s)
        took_s = time.monotonic() - started_at
        everyone = [psutil.Process(each["pid"]) for each in ready["processes"]]
        assert {each.uids().real for each in everyone} == {clone.user.uid or os.getuid()}
        with grpc.insecure_channel(ready["grpc"]) as channel:
            tensor = ModelInferRequest.InferInputTensor(name="bytes", datatype="INT32", shape=[1, 2048])
            request = ModelInferRequest(
                model_name="magika", inputs=[tensor], raw_input_contents=[case.features.astype("int32").tobytes()]
            )
            metadata = (("x-api-key", ready["api_key"]),)
            answer = GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=metadata, timeout=30)
        assert answer.model_name == "magika" and answer.raw_output_contents
        everyone += psutil.Process(ready["pid"]).children(recursive=True)
        os.kill(ready["pid"], signal.SIGTERM)
        assert process.wait(STOP_MAX_S) == 0, clone.log.read_text(errors="replace")[-4000:]
        assert not [each for each in everyone if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        assert not (clone.folder / "ready.json").exists()
        return took_s
    finally:
        stop(process, signal.SIGTERM, within_s=STOP_MAX_S)


def test_a_fresh_clone_serves_after_one_command(clone: Clone, file_case: FileCase, measured: Measured) -> None:
    first_s = start_ask_stop(clone, file_case, within_s=FIRST_START_MAX_S)
    shutil.rmtree(clone.folder / "state")
    next_s = start_ask_stop(clone, file_case, within_s=NEXT_START_MAX_S)
    changed = subprocess.run(
        ["git", "-c", "safe.directory=*", "status", "--porcelain"],
        cwd=clone.folder / "headrace",
        check=True,
        capture_output=True,
        text=True,
    )
    assert changed.stdout == ""
    measured(
        "`make run` in a fresh clone, as an unprivileged user with an empty home",
        f"answers within {FIRST_START_MAX_S:.0f} s, with everything cached within {NEXT_START_MAX_S:.0f} s; "
        "SIGTERM ends it with status 0 and leaves nothing",
        f"{first_s:.0f} s the first time, {next_s:.1f} s afterwards",
    )
