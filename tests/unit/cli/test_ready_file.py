"""The file that tells others where the mesh is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace_cli.mesh.member import Endpoints
from headrace_cli.mesh.ready_file import RunningProcess, ready_content, write_atomically


def test_content_names_the_address_the_key_and_each_process() -> None:
    gateway = RunningProcess(
        name="gateway-0",
        pid=7,
        endpoints=Endpoints(grpc="127.0.0.1:8081", metrics="http://127.0.0.1:9464/metrics"),
    )
    content = ready_content(
        grpc="127.0.0.1:8081",
        http="http://127.0.0.1:8080",
        api_key="community",
        pid=1,
        control=Path("/c"),
        processes=[gateway],
    )
    assert content["control"] == "/c"
    assert content["grpc"] == "127.0.0.1:8081"
    assert content["http"] == "http://127.0.0.1:8080"
    assert content["api_key"] == "community"
    assert content["processes"] == [
        {
            "name": "gateway-0",
            "pid": 7,
            "metrics": "http://127.0.0.1:9464/metrics",
            "grpc": "127.0.0.1:8081",
        }
    ]


def test_writing_replaces_the_file_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "made" / "ready.json"
    write_atomically(path, {"grpc": "first"})
    before = path.open()
    write_atomically(path, {"grpc": "second"})
    with before:
        assert json.load(before) == {"grpc": "first"}
    assert json.loads(path.read_text()) == {"grpc": "second"}
    assert [entry.name for entry in path.parent.iterdir()] == ["ready.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    write_atomically(path, {"grpc": "first"})
    with pytest.raises(TypeError):
        write_atomically(path, {"grpc": object()})
    assert json.loads(path.read_text()) == {"grpc": "first"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["ready.json"]
