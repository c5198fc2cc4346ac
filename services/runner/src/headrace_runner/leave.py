"""The end of the process, also while native code still runs."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import NoReturn

import structlog

_JOIN_S = 0.5


def leave(code: int) -> NoReturn:
    """Exits with `code`.

    Python would wait for every thread first, and nothing can stop one that is inside of a model's native code: with
    such threads the process ends at once instead. What the kernel holds for it, locks included, is free then.
    """
    deadline = time.monotonic() + _JOIN_S
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    running = sorted(thread.name for thread in others if thread.is_alive())
    if not running:
        sys.exit(code)
    structlog.stdlib.get_logger("runner").warning("leaving while threads still run", threads=running)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
