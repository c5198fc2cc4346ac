"""One run of a model's process."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from headrace_runner.backends.llamacpp.settings import ProcessSettings

_CHILD = Path(__file__).with_name("child.py")
_SOCKET = "model.sock"
# The linker may need it to find libgomp. Nothing else of the runner's environment is anything to a model's process.
_PASSED_ON = ("LD_LIBRARY_PATH",)
# How often a thread looks whether the others are as far, about 0.1 ms in all, before it sleeps. The usual 300,000 are
# 15 ms: threads that wait for one without a processor would keep it from getting one, and between two tokens they would
# keep those who pass the first on from computing.
_SPINS = 2000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a loaded model answers.

    Attributes:
        socket: Path of the socket.
        key: Without it only `/health` answers.
    """

    socket: str
    key: str = field(repr=False)


class ChildProcess:
    """Starts the process, which ends with the thread that makes this.

    Args:
        folder: The process's own; it has its socket there.
    """

    def __init__(self, *, settings: ProcessSettings, folder: Path) -> None:
        self.endpoint = Endpoint(str(folder / _SOCKET), secrets.token_urlsafe(24))
        self._popen = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env=_environment(settings.threads),
            start_new_session=True,
        )
        document = {
            "parent": os.getpid(),
            "socket": self.endpoint.socket,
            "key": self.endpoint.key,
            "path": str(settings.path),
            "slots": settings.slots,
            "context_length": settings.context_length,
            "batch": settings.batch,
            "threads": settings.threads,
            "pooling": settings.pooling,
            "chat_template": settings.chat_template,
            "data_bytes_max": settings.data_bytes_max,
        }
        try:
            self._write(json.dumps(document).encode() + b"\n")
        except BrokenPipeError:
            # It has ended already; its standard error says why.
            pass
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def answers(self) -> IO[bytes]:
        """Ends when the process does."""
        assert self._popen.stdout is not None
        return self._popen.stdout

    @property
    def errors(self) -> IO[bytes]:
        assert self._popen.stderr is not None
        return self._popen.stderr

    def kill(self) -> None:
        """In any thread, also when it has ended."""
        self._popen.kill()

    def end(self) -> str:
        """Kills it, if it still runs, and waits for its end. Returns how it ended. Safe to call again."""
        self._popen.kill()
        status = self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            pipe.close()
        return ending(status)

    def _write(self, data: bytes) -> None:
        assert self._popen.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._popen.stdin.write(rest) or 0 :]


def ending(status: int) -> str:
    """How a process ended, for people."""
    if status >= 0:
        return f"left with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}"


def _environment(threads: int) -> dict[str, str]:
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **passed,
        "PATH": "/usr/bin:/bin",
        # Otherwise llama.cpp starts a debugger when it aborts.
        "GGML_NO_BACKTRACE": "1",
        **threads_environment(threads),
    }


def threads_environment(threads: int) -> dict[str, str]:
    """How many threads compute, and how they wait for each other."""
    return {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": str(_SPINS)}


def likely_cause(how: str) -> str:
    """Why a process may have ended that said nothing."""
    if "SIGILL" in how:
        return "its process was ended by SIGILL: the processor lacks instructions that llama.cpp needs"
    if "SIGKILL" in how:
        return "its process was ended by SIGKILL, perhaps because the memory was used up"
    return f"its process {how}; the runner's log may say more"
