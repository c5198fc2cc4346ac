"""xllamacpp called directly in a process of its own, which is what the mesh's answers and speed are compared with.

The process reads a JSON document a line and answers each with one; the first is its settings. Run as
`llama_process.py`; tests use `running_llama`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

Body = Mapping[str, Any]
"""A request as the library's own routes take it."""


class Rate(NamedTuple):
    """What parallel calls made: tokens of all of them, and the seconds until the last one ended."""

    tokens: int
    seconds: float

    @property
    def per_s(self) -> float:
        """Tokens a second of all calls together."""
        return self.tokens / self.seconds


class Llama:
    """The library's server in the other process, one question at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the library's process ended with {self._process.wait()}")
        return json.loads(line)

    def complete(self, bodies: Sequence[Body]) -> list[str]:
        """The texts that follow prompts, or answer conversations, one request after another."""
        return self._ask(do="complete", bodies=bodies)

    def rate(self, bodies: Sequence[Body], *, stream: bool) -> Rate:
        """How fast calls at the same time are, each in a thread of its own; `stream` has every token told."""
        return Rate(*self._ask(do="rate", bodies=bodies, stream=stream))

    def first_token_s(self, body: Body) -> float:
        """Seconds from the call to its first token; the call is ended there."""
        return self._ask(do="first_token", body=body)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of length 1."""
        return self._ask(do="embed", texts=texts)

    def rerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """Scores in the order of the documents."""
        return self._ask(do="rerank", query=query, documents=documents)


@contextmanager
def running_llama(
    model: Path,
    *,
    slots: int = 8,
    context: int = 512,
    threads: int = 0,
    prompt_batch: int = 64,
    pooling: str = "",
    environment: Mapping[str, str] | None = None,
) -> Generator[Llama]:
    """The library with a model file in memory.

    Args:
        model: A GGUF.
        slots: Sequences at the same time.
        context: Tokens of each slot.
        threads: 0 means as many as there are cores.
        prompt_batch: Tokens that are computed at once.
        pooling: What it makes of the tokens in place of text: `mean` for vectors, `rank` for scores.
        environment: Variables added to those of this process.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-llama-") as folder:
        settings = {
            "model": str(model),
            "socket": f"{folder}/llama.sock",
            "slots": slots,
            "context": context,
            "threads": threads or os.cpu_count() or 1,
            "batch": prompt_batch,
            "pooling": pooling,
        }
        process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            llama = Llama(process)
            llama._ask(**settings)  # pyright: ignore[reportPrivateUsage]
            yield llama
        finally:
            # Its own end may hang; the library's process has nothing that needs one.
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _server(settings: Mapping[str, Any]) -> Any:
    import xllamacpp  # pyright: ignore[reportMissingTypeStubs]

    library: Any = xllamacpp
    params = library.CommonParams()
    params.model.path = settings["model"]
    params.hostnames = [settings["socket"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context"]
    params.kv_unified = False
    params.n_batch = params.n_ubatch = settings["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.n_gpu_layers = 0
    params.cache_ram_mib = 0
    params.verbosity = -1
    if settings["pooling"]:
        params.embedding = True
        params.pooling_type = getattr(library.llama_pooling_type, f"LLAMA_POOLING_TYPE_{settings['pooling'].upper()}")
    return library.Server(params)


def _text(server: Any, body: Body) -> str:
    if "messages" in body:
        answer = server.handle_chat_completions(dict(body))
        return _checked(answer)["choices"][0]["message"]["content"]
    return _checked(server.handle_completions(dict(body)))["choices"][0]["text"]


def _checked(answer: Any) -> Any:
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def _rate(server: Any, bodies: Sequence[Body], stream: bool) -> tuple[int, float]:
    tokens: list[int] = []

    def call(body: Body) -> None:
        if stream:
            server.handle_completions({**body, "stream": True}, _heard)
        else:
            _checked(server.handle_completions(dict(body)))
        tokens.append(body["max_tokens"])

    threads = [threading.Thread(target=call, args=(body,)) for body in bodies]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(tokens), time.perf_counter() - started


def _heard(_: Any) -> None:
    """Asks for more."""


def _first_token_s(server: Any, body: Body) -> float:
    heard: list[float] = []

    def listen(_: Any) -> bool:
        heard.append(time.perf_counter())
        return True

    started = time.perf_counter()
    server.handle_completions({**body, "stream": True}, listen)
    return heard[0] - started


def _answer(server: Any, question: Mapping[str, Any]) -> Any:
    match question["do"]:
        case "complete":
            return [_text(server, body) for body in question["bodies"]]
        case "rate":
            return _rate(server, question["bodies"], question["stream"])
        case "first_token":
            return _first_token_s(server, question["body"])
        case "embed":
            found = _checked(server.handle_embeddings({"input": question["texts"]}))["data"]
            return [entry["embedding"] for entry in sorted(found, key=lambda entry: entry["index"])]
        case "rerank":
            asked = {"query": question["query"], "documents": question["documents"]}
            found = _checked(server.handle_rerank(asked))["results"]
            return [entry["relevance_score"] for entry in sorted(found, key=lambda entry: entry["index"])]
        case _:
            raise ValueError(question["do"])


def _tell(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _serve() -> None:
    server = _server(json.loads(sys.stdin.readline()))
    _tell("ready")
    for line in sys.stdin:
        _tell(_answer(server, json.loads(line)))
    os._exit(0)


if __name__ == "__main__":
    _serve()
