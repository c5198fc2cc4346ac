"""The launcher: how a process is tied to the life of the one that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from headrace_cli.mesh.launch import Launch, launch_command

PRINT_USER = "import os; print(os.getuid(), os.getgid(), os.getgroups())"


def run(launch: Launch) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(launch_command(launch), check=False, capture_output=True, timeout=60)


def test_the_command_replaces_the_launcher_and_its_status_comes_through() -> None:
    launch = Launch(os.getpid(), 9, None, False, [sys.executable, "-c", "import os; print(os.getpid()); exit(7)"])
    process = subprocess.Popen(launch_command(launch), stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    assert (int(said), process.returncode) == (process.pid, 7)


def test_a_command_whose_parent_has_died_already_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    launch = Launch(2**22, 9, None, False, ["/bin/sh", "-c", f"touch {marker}"])
    assert run(launch).returncode == 1
    assert not marker.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_the_given_user_for_good() -> None:
    done = run(Launch(os.getpid(), 9, (65_534, 65_534), False, ["/usr/bin/env", "id", "-u"]))
    assert done.stdout == b"65534\n"
    groups = run(Launch(os.getpid(), 9, (65_534, 65_534), False, ["/usr/bin/env", "id", "-G"]))
    assert groups.stdout == b"65534\n"


@pytest.mark.skipif(sys.platform != "linux", reason="death signals are Linux's")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_death_signal_outlives_the_change_of_user() -> None:
    parent = (
        "import os, subprocess, sys, time\n"
        "from headrace_cli.mesh.launch import Launch, launch_command\n"
        "launch = Launch(os.getpid(), 9, (65534, 65534), False, ['/bin/sleep', '600'])\n"
        "print(subprocess.Popen(launch_command(launch)).pid, flush=True)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    until(lambda: child.name() == "sleep")
    process.kill()
    process.communicate()
    until(lambda: gone(child))


def test_a_lifeline_ends_the_command_when_its_pipe_closes() -> None:
    launch = Launch(os.getpid(), signal.SIGTERM, None, True, ["/bin/sleep", "600"])
    process = subprocess.Popen(launch_command(launch), stdin=subprocess.PIPE)
    (command,) = children(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 1
    until(lambda: gone(command))


def test_a_lifeline_forwards_signals_and_ends_like_its_command() -> None:
    launch = Launch(os.getpid(), signal.SIGKILL, None, True, ["/bin/sleep", "600"])
    process = subprocess.Popen(launch_command(launch), stdin=subprocess.PIPE)
    children(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    process.communicate()


def test_a_lifeline_that_is_told_to_end_as_soon_as_it_has_a_child_takes_it_along() -> None:
    for _ in range(20):
        launch = Launch(os.getpid(), signal.SIGKILL, None, True, ["/bin/sleep", "600"])
        process = subprocess.Popen(launch_command(launch), stdin=subprocess.PIPE)
        while not (made := psutil.Process(process.pid).children()):
            continue
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
        process.communicate()
        until(lambda made=made: all(map(gone, made)))


def test_a_lifeline_passes_the_commands_status_on() -> None:
    launch = Launch(os.getpid(), 9, None, True, ["/bin/sh", "-c", "exit 5"])
    process = subprocess.Popen(launch_command(launch), stdin=subprocess.PIPE)
    assert process.wait(60) == 5
    process.communicate()


def children(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []

    def started() -> bool:
        with suppress(psutil.NoSuchProcess):
            found[:] = [child for child in psutil.Process(pid).children() if child.name() == "sleep"]
        return bool(found)

    until(started)
    return found


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(condition: object, *, within_s: float = 30.0) -> None:
    assert callable(condition)
    give_up_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
