"""Turns a fresh interpreter into one process of the mesh that can't outlive its supervisor.

Run as a file with `python -I -S`, so it uses the standard library only and starts in a few milliseconds:

    launch.py --parent PID --death-signal N [--user UID:GID] [--lifeline] -- COMMAND ARGUMENT...

On Linux the kernel sends the death signal when the supervisor's thread ends. That request is made after the change
of user, which would clear it, and the parent is checked afterwards, because it may have died before the request.
Elsewhere (`--lifeline`) standard input is a pipe that only the supervisor holds open: this process stays as the
parent of the command, forwards signals to it, and ends it when the pipe closes.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
# How long a command may take to obey its death signal before it is killed.
_OBEY_S = 3.0


@dataclass(frozen=True)
class Launch:
    """The parsed command line."""

    parent: int
    death_signal: int
    user: tuple[int, int] | None
    lifeline: bool
    command: list[str]


def parse(arguments: list[str]) -> Launch:
    """Read the command line; it is only ever written by `launch_command`, so a wrong one is a KeyError."""
    options, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    flags = {"--lifeline"} & set(options)
    pairs = [option for option in options if option not in flags]
    values = dict(zip(pairs[::2], pairs[1::2], strict=True))
    user: tuple[int, int] | None = None
    if "--user" in values:
        uid, gid = values["--user"].split(":")
        user = int(uid), int(gid)
    return Launch(int(values["--parent"]), int(values["--death-signal"]), user, "--lifeline" in flags, command)


def launch_command(launch: Launch) -> list[str]:
    """The command line that makes this module do what `launch` says."""
    options = ["--parent", str(launch.parent), "--death-signal", str(launch.death_signal)]
    if launch.user is not None:
        options += ["--user", f"{launch.user[0]}:{launch.user[1]}"]
    if launch.lifeline:
        options.append("--lifeline")
    return [sys.executable, "-I", "-S", __file__, *options, "--", *launch.command]


def drop_to(uid: int, gid: int) -> None:
    """Become another user for good."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def end_with_parent(parent: int, death_signal: int) -> None:
    """Ask the kernel for a signal at the parent's death; leave at once when it is dead already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def _reap(child: int, *, until: float) -> int | None:
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() >= until:
            return None
        time.sleep(0.02)


def _leave_like(status: int) -> None:
    """End this process the way its child ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status))


def watch(launch: Launch) -> None:
    """Run the command as a child until it ends or the pipe on standard input closes."""
    lifeline = os.dup(0)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    # A signal that comes before it can be forwarded waits: it would end this process and leave the child alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        os.close(lifeline)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        os.execv(launch.command[0], launch.command)  # noqa: S606 - the command is ours
    for number in _FORWARDED:
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    while True:
        status = _reap(child, until=0.0)
        if status is not None:
            _leave_like(status)
        readable, _, _ = select.select([lifeline], [], [], 0.1)
        if readable and not os.read(lifeline, 1):
            os.kill(child, launch.death_signal)
            if _reap(child, until=time.monotonic() + _OBEY_S) is None:
                os.kill(child, signal.SIGKILL)
            sys.exit(1)


def main(arguments: list[str]) -> None:
    """Do what the command line says; returns only by exiting or becoming the command."""
    launch = parse(arguments)
    if launch.user is not None:
        drop_to(*launch.user)
    if launch.lifeline:
        watch(launch)
    end_with_parent(launch.parent, launch.death_signal)
    os.execv(launch.command[0], launch.command)  # noqa: S606 - the command is ours


if __name__ == "__main__":
    main(sys.argv[1:])
