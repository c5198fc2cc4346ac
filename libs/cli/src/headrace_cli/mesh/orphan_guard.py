"""Ends what a killed supervisor leaves behind: descendants of the services, which no death signal reaches.

The guard is a tiny process of its own whose standard input is a pipe from the supervisor. Each process of the mesh
leads a process group and is announced on the pipe (`add GROUP SIGNAL`, `remove GROUP`). When the pipe closes, each
group that is still announced gets its signal, and SIGKILL a little later. On an orderly stop no group is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

_OBEY_S = 2.0


class Groups:
    """The announced process groups, each with the signal that ends it."""

    def __init__(self) -> None:
        self._signals: dict[int, int] = {}

    def apply(self, line: str) -> None:
        """Take one announcement."""
        verb, group, *rest = line.split()
        if verb == "add":
            self._signals[int(group)] = int(rest[0])
        else:
            self._signals.pop(int(group), None)

    def pending(self) -> dict[int, int]:
        """The groups that the supervisor has not taken back."""
        return dict(self._signals)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a whole group; False when nobody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # The group holds only processes of another user, or (on macOS) only dead ones.
        return False
    return True


def end_groups(groups: dict[int, int]) -> None:
    """End every group, by its own signal first and by SIGKILL when it does not obey."""
    left = {group for group, number in groups.items() if signal_group(group, number)}
    give_up_at = time.monotonic() + _OBEY_S
    while left and time.monotonic() < give_up_at:
        time.sleep(0.02)
        left = {group for group in left if signal_group(group, 0)}
    for group in left:
        signal_group(group, signal.SIGKILL)


def guard(lines: Iterable[str]) -> None:
    """Follow the announcements until the pipe closes, then end what is left."""
    groups = Groups()
    for line in lines:
        groups.apply(line)
    end_groups(groups.pending())


class OrphanGuard:
    """The supervisor's side: starts the guard and keeps it informed, also when somebody kills it."""

    def __init__(self) -> None:
        self._signals: dict[int, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, group: int, number: int) -> None:
        """Announce a group and the signal that ends it."""
        self._signals[group] = number
        self._tell([f"add {group} {number}"])

    def remove(self, group: int) -> None:
        """Take a group back: it has ended."""
        self._signals.pop(group, None)
        self._tell([f"remove {group}"])

    def close(self) -> None:
        """Close the pipe and wait for the guard, which ends the groups that are still announced."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()

    def _tell(self, lines: list[str]) -> None:
        if self._process is not None and self._process.poll() is None and self._write(lines):
            return
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        self._write([f"add {group} {number}" for group, number in self._signals.items()])

    def _write(self, lines: list[str]) -> bool:
        if self._process is None or self._process.stdin is None:
            return False
        try:
            self._process.stdin.write("".join(line + "\n" for line in lines).encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)
    guard(sys.stdin)
