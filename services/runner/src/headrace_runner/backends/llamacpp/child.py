"""The process that holds a model: llama.cpp's server on a private socket, and no Python for each token.

Run as a file with `python -I`. Standard input brings the settings as one line of JSON and stays open; its end is the
order to leave. Standard output gives one line of JSON: that the model is loaded, or that it can't be. What llama.cpp
has to say goes to standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OOM_SCORE_ADJ = "500"
# Beside those of the streams: for what is taken apart or written out, and for the question whether it still gets on.
_HTTP_THREADS = 16


def main() -> None:
    """Serves until standard input ends."""
    settings: dict[str, Any] = json.loads(sys.stdin.buffer.readline() or b"null") or _leave(None)
    folder = os.path.dirname(settings["socket"])  # noqa: PTH120 - pathlib costs milliseconds here
    _confine(settings["data_bytes_max"])
    # While the model loads nothing of Python runs, so that only a kill ends it in time.
    _end_with(settings["parent"], signal.SIGKILL)
    # The library may print; the answers are not to be mixed with that.
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        server = _serve(settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, the reason is on standard error
        os.write(answers, json.dumps({"error": str(error)}).encode() + b"\n")
        _leave(None)

    def leave(_number: int, _frame: object) -> None:
        _leave(folder)

    signal.signal(signal.SIGTERM, leave)
    _end_with(settings["parent"], signal.SIGTERM)
    os.write(answers, b'{"ready": true}\n')
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    _leave(folder)
    del server


def _confine(data_bytes_max: int) -> None:
    """A model's file may be anybody's: the process can't get more rights, leaves no dump, and goes first."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if data_bytes_max:
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes_max, data_bytes_max))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
            score.write(_OOM_SCORE_ADJ)


def _end_with(parent: int, number: int) -> None:
    """Has the kernel send a signal when the thread that started this process ends; leaves when it has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        _leave(None)


def _serve(settings: dict[str, Any]) -> Any:
    import xllamacpp  # pyright: ignore[reportMissingTypeStubs]

    library: Any = xllamacpp
    params = library.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {"model"}
    # Without an address a TCP port is opened, and without a key anybody may use it.
    params.hostnames = [settings["socket"]]
    params.api_keys = [settings["key"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context_length"]
    # One cache for all sequences would make an answer depend on its company.
    params.kv_unified = False
    params.n_batch = params.n_ubatch = settings["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.n_threads_http = settings["slots"] + _HTTP_THREADS
    params.n_gpu_layers = 0
    params.fit_params = False
    params.cache_ram_mib = 0
    params.ctx_shift = False
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.ui = False
    params.offline = True
    params.use_jinja = True
    params.chat_template = settings["chat_template"]
    params.check_tensors = True
    # Errors only; more would tell prompts.
    params.verbosity = 1
    params.sse_ping_interval = 1
    if settings["pooling"]:
        params.embedding = True
        params.pooling_type = getattr(library.llama_pooling_type, "LLAMA_POOLING_TYPE_" + settings["pooling"].upper())
    return library.Server(params)


def _leave(folder: str | None) -> NoReturn:
    """Ends at once: to destroy the server can hang. The folder is removed, as the runner may be gone."""
    if folder is not None:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):  # noqa: PTH208
                os.unlink(os.path.join(folder, name))  # noqa: PTH108, PTH118
            os.rmdir(folder)  # noqa: PTH106
    os._exit(0)


if __name__ == "__main__":
    main()
