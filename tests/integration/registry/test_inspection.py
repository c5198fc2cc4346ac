"""The process that opens untrusted files: bounded, without credentials, and never believed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.errors import ModelError
from headrace_registry.inspection import Inspector
from support import onnx_models
from support.eventually import eventually


def inspector(*, timeout_s: float = 60.0, memory_bytes: int = 8 << 30, concurrent_max: int = 2) -> Inspector:
    return Inspector(
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
        concurrent_max=concurrent_max,
        registry=CollectorRegistry(),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.write_bytes(onnx_models.tiny())
    return path


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A file whose reading never ends: the process opens it and waits for its first byte."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    path.unlink()


def inspections() -> list[psutil.Process]:
    """Processes of this test that inspect something."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # One that has ended meanwhile, zombies among them.
            if "headrace_registry.onnx_inspection" in child.cmdline():
                found.append(child)
    return found


async def test_file_that_takes_too_long_is_given_up_and_its_process_is_gone(endless: Path) -> None:
    with pytest.raises(ModelError) as failure:
        await inspector(timeout_s=1.0).inspect(endless, file_name="m.onnx")
    assert failure.value.entry == catalogue.MODEL_INSPECTION_LIMIT
    assert inspections() == []


async def test_file_that_needs_too_much_memory_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(onnx_models.weighty(300 << 20))
    with pytest.raises(ModelError) as failure:
        await inspector(memory_bytes=700 << 20).inspect(path, file_name="large.onnx")
    assert failure.value.entry == catalogue.MODEL_INSPECTION_LIMIT
    assert failure.value.context["file"] == "large.onnx"


async def test_cancelled_inspection_kills_its_process(endless: Path) -> None:
    inspecting = asyncio.ensure_future(inspector().inspect(endless, file_name="m.onnx"))
    await eventually(lambda: len(inspections()) == 1)
    inspecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await inspecting
    assert inspections() == []


async def test_process_gets_no_variable_of_ours(endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HEADRACE_POSTGRES_URL", "postgresql://secret")
    inspecting = asyncio.ensure_future(inspector().inspect(endless, file_name="m.onnx"))
    await eventually(lambda: len(inspections()) == 1)
    assert "secret" not in str(inspections()[0].environ())
    inspecting.cancel()
    await asyncio.wait({inspecting})


async def test_only_so_many_files_are_inspected_at_once(endless: Path, model: Path) -> None:
    busy = inspector(concurrent_max=1)
    first = asyncio.ensure_future(busy.inspect(endless, file_name="m.onnx"))
    await eventually(lambda: len(inspections()) == 1)
    second = asyncio.ensure_future(busy.inspect(model, file_name="m.onnx"))
    await asyncio.sleep(0)
    assert len(inspections()) == 1
    first.cancel()
    signature = await second
    assert [tensor.name for tensor in signature.inputs] == ["x"]


async def test_answer_is_not_believed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for a process that was taken over by the file: it may print what it likes."""
    answers = [
        "nonsense",
        "[]",
        "{}",
        '{"inputs": [], "outputs": []}',
        '{"inputs": [["x", "tensor(float)", [1]]], "outputs": [["z", "tensor(float)", ["a"]]]}',
        '{"inputs": [["x", "tensor(float)", [99999999999999999999999]]], "outputs": []}',
        '{"inputs": [["", "tensor(float)", []]], "outputs": []}',
        '{"inputs": [["x"]], "outputs": []}',
        '{"fault": "unheard of", "subject": ""}',
        "[" * 100_000,
    ]
    for answer in answers:
        (tmp_path / "answer").write_text(answer)
        stand_in = tmp_path / "python"
        stand_in.write_text(f"#!/bin/sh\ncat {tmp_path / 'answer'}\n".replace("cat", "/bin/cat"))
        stand_in.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(stand_in))
        with pytest.raises(ModelError) as failure:
            await inspector().inspect(model, file_name="m.onnx")
        assert failure.value.entry == catalogue.MODEL_FILE_INVALID, answer[:50]


async def test_tensors_outside_of_the_protocol_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "python"
    answer = '{"inputs": [["x", "seq(tensor(float))", []]], "outputs": [["z", "tensor(float)", []]]}'
    stand_in.write_text(f"#!/bin/sh\necho '{answer}'\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(ModelError, match="input 'x'") as failure:
        await inspector().inspect(model, file_name="m.onnx")
    assert failure.value.entry == catalogue.MODEL_FORMAT_UNSUPPORTED


def test_process_can_not_write_files(tmp_path: Path) -> None:
    written = tmp_path / "written"
    script = (
        "import os\n"
        "from headrace_registry.inspection_process import _bound\n"
        "_bound(memory_bytes=8 << 30, cpu_s=10)\n"
        f"os.write(os.open({str(written)!r}, os.O_CREAT | os.O_WRONLY), b'x')\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], check=False, capture_output=True)
    assert b"File too large" in done.stderr
    assert written.read_bytes() == b""
