"""A whole service as a process: signals, exit codes, ready file, metrics."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from support.eventually import eventually

PROGRAM = '''
"""A service with one method, written the way services are."""
import asyncio
import sys
from pathlib import Path
from typing import ClassVar

from google.protobuf.wrappers_pb2 import StringValue
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime, service_handler, unary
from headrace_common.metrics import Metrics
from headrace_common.ready_file import write_ready_file
from headrace_common.service_main import Stop, run_service
from headrace_common.settings import ServiceSettings
from headrace_common.tasks import TaskGuard


class MillSettings(ServiceSettings):
    service: ClassVar[str] = "mill"
    task: str = "lives"


async def grind(request: StringValue, call: object) -> StringValue:
    """Answers once there is a file of the request's name."""
    print("grinding", flush=True)
    while not Path(request.value).exists():
        await asyncio.sleep(0.01)
    return request


async def background(settings: MillSettings) -> None:
    if settings.task == "dies":
        raise RuntimeError("worn out")
    await asyncio.Event().wait()


async def main(settings: MillSettings, stop: Stop) -> None:
    if settings.task == "never starts":
        raise RuntimeError("broken")
    metrics = Metrics()
    runtime = RpcRuntime(registry=metrics.registry)
    handler = service_handler("test.Mill", {"Grind": unary(grind, StringValue, StringValue)}, runtime=runtime)
    async with TaskGuard() as guard:
        guard.spawn(background(settings), name="background")
        server = GrpcServer(listeners=[Listener(address="127.0.0.1:0")], handlers=[handler], runtime=runtime)
        (address,) = await server.start()
        url = metrics.start(settings.metrics_address)
        write_ready_file(settings.ready_file, name="mill", grpc=address, metrics=url)
        await stop.wait_or_failure(guard)
        await server.stop(settings.shutdown_grace_s)
        await metrics.close()


if __name__ == "__main__":
    sys.exit(run_service("mill", MillSettings, main))
'''


class Mill:
    """The running process."""

    def __init__(self, directory: Path, *arguments: str, **environ: str) -> None:
        program = directory / "mill.py"
        program.write_text(PROGRAM)
        self.directory = directory
        self.ready_file = directory / "ready.json"
        with (directory / "out").open("w") as out, (directory / "err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(program), *arguments],
                env={**os.environ, "HEADRACE_READY_FILE": str(self.ready_file), **environ},
                stdout=out,
                stderr=err,
            )

    async def ready(self) -> dict[str, str]:
        await eventually(lambda: self.ready_file.exists() or self.process.poll() is not None, within_s=60)
        return json.loads(self.ready_file.read_text())

    def output(self) -> tuple[str, str]:
        return (self.directory / "out").read_text(), (self.directory / "err").read_text()

    async def said(self, word: str) -> None:
        await eventually(lambda: word in "".join(self.output()), within_s=60)

    def ended(self) -> tuple[int, str, str]:
        code = self.process.wait(timeout=60)
        return code, *self.output()


@contextmanager
def mill(directory: Path, *arguments: str, **environ: str) -> Iterator[Mill]:
    running = Mill(directory, *arguments, **environ)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own process's http address
        return answer.read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_running_call_finish_and_exits_zero(tmp_path: Path, number: signal.Signals) -> None:
    with mill(tmp_path) as running:
        ready, ground = await running.ready(), tmp_path / "ground"
        async with grpc.aio.insecure_channel(ready["grpc"]) as channel:
            call = channel.unary_unary("/test.Mill/Grind")(
                StringValue(value=str(ground)).SerializeToString(), timeout=90
            )
            await running.said("grinding")
            running.process.send_signal(number)
            await running.said("stopping")
            assert not call.done()
            ground.touch()
            assert StringValue.FromString(await call).value == str(ground)
        code, _, err = running.ended()
    assert code == 0
    assert [json.loads(line)["event"] for line in err.splitlines()][-1] == "stopped"


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with mill(tmp_path) as running:
        ready = await running.ready()
        async with grpc.aio.insecure_channel(ready["grpc"]) as channel:
            call = channel.unary_unary("/test.Mill/Grind")(
                StringValue(value="/nonexistent").SerializeToString(), timeout=90
            )
            await running.said("grinding")
            assert not call.done()
            running.process.terminate()
            await running.said("stopping")
            running.process.terminate()
            code, _, _ = await asyncio.to_thread(running.ended)
    assert code == 130


async def test_metrics_are_served_at_the_announced_address(tmp_path: Path) -> None:
    with mill(tmp_path) as running:
        ready = await running.ready()
        assert ready["pid"] == running.process.pid
        text = await asyncio.to_thread(fetch, ready["metrics"])
    assert "process_resident_memory_bytes" in text
    assert "headrace_rpc_handled_total" in text


def test_a_background_task_that_dies_ends_the_process_with_one(tmp_path: Path) -> None:
    with mill(tmp_path, HEADRACE_MILL_TASK="dies") as running:
        code, _, err = running.ended()
    assert code == 1
    death = next(line for line in map(json.loads, err.splitlines()) if line["event"] == "background task died")
    assert death["task"] == "background"
    assert "worn out" in death["exception"]


def test_a_start_that_fails_exits_one_with_a_trace_in_the_log(tmp_path: Path) -> None:
    with mill(tmp_path, HEADRACE_MILL_TASK="never starts") as running:
        code, _, err = running.ended()
    assert code == 1
    assert "broken" in json.loads(err.splitlines()[-1])["exception"]


def test_a_wrong_setting_exits_two_and_names_the_variable(tmp_path: Path) -> None:
    with mill(tmp_path, HEADRACE_LOG_LEVEL="loud") as running:
        code, _, err = running.ended()
    assert code == 2
    assert err.startswith("headrace-mill: HEADRACE_LOG_LEVEL")
    assert "Traceback" not in err


def test_print_config_and_help_tell_all_variables(tmp_path: Path) -> None:
    url = "postgresql://u:hunter2@h/d"
    with mill(tmp_path, "--print-config", HEADRACE_POSTGRES_URL=url) as running:
        code, out, _ = running.ended()
    assert code == 0
    assert "HEADRACE_MILL_TASK=lives" in out
    assert "hunter2" not in out
    with mill(tmp_path, "--help") as running:
        code, out, _ = running.ended()
    assert code == 0
    assert "HEADRACE_MILL_TASK" in out
    assert "HEADRACE_POSTGRES_URL" in out
