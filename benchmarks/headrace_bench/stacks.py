"""Whose code the processor runs: collapsed stacks of py-spy, added up by function and by owner."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_FRAME = re.compile(r"(?P<function>.*) \((?P<place>[^()]*)\)")
_LINE = re.compile(r":\d+$")
_ADDRESS = re.compile(r"0x[0-9a-f]+")
# A thread that is in one of these, or in what it called that has no name, waits. py-spy can't tell it from one that
# works where it unwinds C.
_WAITING = frozenset(
    {
        "epoll_wait",
        "epoll_pwait",
        "poll",
        "ppoll",
        "select",
        "pthread_cond_wait",
        "pthread_cond_timedwait",
        "sem_wait",
        "sem_timedwait",
        "_PollLikeSelector.select",
        "PyThread_acquire_lock_timed",
        "take_gil",
    }
)
_SYSTEM_CALLS = frozenset(
    {"sendmsg", "send", "recvmsg", "recv", "write", "writev", "read", "readv", "epoll_ctl", "syscall", "getpid"}
)
# C files of uvloop and of the libuv inside it, as their debug symbols name them.
_UVLOOP = frozenset({"loop.c", "core.c", "loop-watcher.c", "stream.c", "linux.c", "queue.h", "uv-common.c"})
_LIBRARIES = {"_message": "protobuf", "_asyncio": "asyncio", "onnxruntime_pybind11_state": "onnxruntime"}
_OURS = "headrace_"
_NAMELESS = "…"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stack: a function and the file or library that it is in."""

    function: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Frame:
        """From `function (file.py:12)`, `function (file.c:12)` or `0x12ab (library.so)`."""
        found = _FRAME.fullmatch(text)
        if found is None:
            return cls(text, "")
        return cls(_ADDRESS.sub(_NAMELESS, found["function"]), _LINE.sub("", found["place"]))

    @property
    def owner(self) -> str | None:
        """The project that the code belongs to, for ours the file; None for code that works for its caller."""
        path = PurePosixPath(self.place)
        first = path.parts[0] if path.parts else ""
        if first.startswith(_OURS):
            return self.place
        if ".so" in self.place:
            return _LIBRARIES.get(path.name.split(".")[0], first if len(path.parts) > 1 else None)
        if path.name in _UVLOOP or first == "uvloop":
            return "uvloop"
        if first == "asyncio" or path.name == "_asynciomodule.c":
            return "asyncio"
        package = first.removesuffix(".py")
        known = path.suffix != ".py" or first.startswith("<") or package in sys.stdlib_module_names
        return None if known else package

    def __str__(self) -> str:
        return f"{self.function} ({self.place})"


@dataclass(kw_only=True)
class Costs:
    """Samples of threads that worked, added up.

    Attributes:
        owners: By the nearest owner above the frame that ran; time in the kernel apart.
        functions: By the function that ran.
        called: By our functions, everything that they called included.
    """

    working: int = 0
    waiting: int = 0
    owners: Counter[str] = field(default_factory=Counter[str])
    functions: Counter[str] = field(default_factory=Counter[str])
    called: Counter[str] = field(default_factory=Counter[str])

    def add(self, stack: Sequence[Frame], samples: int) -> None:
        """Count a stack, outermost frame first."""
        named = [frame for frame in stack if frame.function != _NAMELESS]
        if named and named[-1].function in _WAITING:
            self.waiting += samples
            return
        self.working += samples
        self.functions[str(stack[-1])] += samples
        owner = next((frame.owner for frame in reversed(stack) if frame.owner is not None), "the interpreter")
        self.owners[f"system calls of {owner}" if stack[-1].function in _SYSTEM_CALLS else owner] += samples
        for name in {str(frame) for frame in stack if frame.place.startswith(_OURS)}:
            self.called[name] += samples


def costs_of(collapsed: str) -> Costs:
    """Add up py-spy's format `raw`: frames with semicolons between them, a space and the number of samples."""
    costs = Costs()
    for line in collapsed.splitlines():
        stack, _, samples = line.rpartition(" ")
        costs.add([Frame.parse(frame) for frame in stack.split(";")], int(samples))
    return costs
