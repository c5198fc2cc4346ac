"""The package needs grpcio, protobuf and numpy, and nothing else that is installed here."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "libs" / "client"

# Refuses every other import, as if nothing else were installed.
ALONE = """
import sys

class Alone:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        allowed = {"grpc", "google", "numpy", "headrace_client", "typing_extensions"} | sys.stdlib_module_names
        # google.rpc and others share the namespace with protobuf; typing_extensions belongs to grpcio.
        if name.startswith("google.") and not name.startswith(("google.protobuf", "google._upb")) or top not in allowed:
            refused.append(name)
            raise ModuleNotFoundError(name)

refused = []
sys.meta_path.insert(0, Alone())
"""
USE = """
import asyncio, numpy
from headrace_client import AsyncClient, Client, HeadraceError, Tensor
from headrace_client.contracts.inference import open_inference_pb2
with Client("127.0.0.1:1", timeout_s=30) as client:
    try:
        client.infer("m", {"x": numpy.zeros(3), "b": Tensor([1.5], "BF16"), "t": ["a"]})
    except HeadraceError as error:
        print(error.reason)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_it_works_with_its_three_dependencies_alone() -> None:
    assert run(ALONE + USE) == "UNREACHABLE"


def test_the_guard_of_the_test_above_would_notice() -> None:
    assert run(ALONE + "import importlib\ntry:\n    import yaml\nexcept ImportError:\n    print(refused)") == "['yaml']"


def test_it_declares_these_three() -> None:
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    assert sorted(name.partition(">")[0] for name in project["dependencies"]) == ["grpcio", "numpy", "protobuf"]


@pytest.mark.parametrize("leave", ["client.server.live()", "client.infer('m', {})", "pass"])
def test_a_client_that_nobody_closed_doesnt_hold_up_the_end_of_the_process(leave: str) -> None:
    code = (
        "from headrace_client import *\n"
        "client = Client('127.0.0.1:1', timeout_s=0.2)\n"
        f"try:\n    {leave}\nexcept HeadraceError:\n    pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
