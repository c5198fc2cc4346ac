"""Server processes for tests that can't outlive the test run, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Runs in a fresh interpreter before the server: drops to the given user (0 = stay), asks the kernel for a
# signal when the test run dies (after the drop: a change of user clears it), then becomes the server.
_LAUNCH = """
import ctypes, os, sys
parent, uid, gid, death_signal = map(int, sys.argv[1:5])
if uid:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(sys.argv[5], sys.argv[5:])
"""


@dataclass(frozen=True)
class Unprivileged:
    """The user that servers which refuse to run as root are started as; zeros mean "the current user"."""

    uid: int
    gid: int

    @classmethod
    def current(cls) -> Unprivileged:
        """`nobody` when the tests run as root, else whoever runs them."""
        if os.geteuid() != 0:
            return cls(0, 0)
        import pwd

        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def own(self, path: Path) -> None:
        """Hand a folder that the tests made to this user."""
        if self.uid:
            os.chown(path, self.uid, self.gid)

    def can_reach(self, path: Path) -> bool:
        """Whether this user may traverse every folder down to `path` (true for the current user)."""
        return not self.uid or all(folder.stat().st_mode & 0o001 for folder in [*path.resolve().parents])


def command_as(user: Unprivileged, argv: Sequence[str], *, death_signal: int = signal.SIGKILL) -> list[str]:
    """The command line that runs `argv` as `user` and ends it with the process that starts it."""
    numbers = [os.getpid(), user.uid, user.gid, int(death_signal)]
    return [sys.executable, "-I", "-c", _LAUNCH, *map(str, numbers), *argv]


def stop(process: subprocess.Popen[bytes], stop_signal: int, *, within_s: float = 10.0) -> None:
    """Ask a server to stop, and kill it when it does not."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A loopback TCP port nobody listens on now; somebody may take it before the caller does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class HeldPort:
    """A loopback TCP port that nobody else gets before, or between, the servers that a test starts on it.

    It is bound here and not listened on, which a server that sets SO_REUSEADDR, as all of ours do, may do all the same.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.number}"

    def close(self) -> None:
        """Gives it back."""
        self._socket.close()


def listens(port: int) -> bool:
    """Whether a loopback TCP port accepts connections."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
