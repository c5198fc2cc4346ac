"""ONNX Runtime in this process: what the model itself can do. Says its readiness by answering counts of rows.

The rows in flight are dealt to a thread for each core, and each thread runs its share as one batch, with one thread of
ONNX Runtime: the best that a server with the same requests could hope for.
"""

# ONNX Runtime has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import onnxruntime

from headrace_bench.load import Load, next_count, own_cpu_s, say
from headrace_bench.models import MODELS, Array, BenchModel


class LocalModel:
    """A model loaded in this process; threads may share it."""

    def __init__(self, model: BenchModel) -> None:
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(model.content, options, providers=["CPUExecutionProvider"])

    def run(self, rows: Array) -> Array:
        """The output for these rows."""
        (output,) = self._session.run(None, {"x": rows})
        return output


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    options = parser.parse_args()
    model = MODELS[options.model]
    threads = min(options.concurrency, os.cpu_count() or 1)
    rows = min(options.concurrency // threads, model.batch_rows_max)
    local, batch = LocalModel(model), model.rows(rows)

    def execute(executions: int) -> list[float]:
        latencies_s: list[float] = []
        for _ in range(executions):
            started_s = time.perf_counter()
            local.run(batch)
            latencies_s.append(time.perf_counter() - started_s)
        return latencies_s

    with ThreadPoolExecutor(threads) as pool:
        while (count := next_count()) is not None:
            executions = max(1, round(count / rows / threads))
            cpu_s, started_s = own_cpu_s(), time.perf_counter()
            shares = list(pool.map(execute, [executions] * threads))
            wall_s = time.perf_counter() - started_s
            # Every row of a batch waited for the batch.
            latencies_s = [latency_s for share in shares for latency_s in share for _ in range(rows)]
            say(Load.of(latencies_s=latencies_s, failed=Counter(), wall_s=wall_s, cpu_s=own_cpu_s() - cpu_s))


if __name__ == "__main__":
    main()
