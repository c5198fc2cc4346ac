"""Sends a huge tensor every so many seconds to the echo model, in a process of its own; ends with its stdin.

Prints a line when it starts, and at the end how many calls were answered rightly.
"""

from __future__ import annotations

import sys
import threading
import time

import grpc
import numpy as np

from headrace_common.allocator import keep_freed_memory
from inference.open_inference_pb2 import ModelInferRequest


def main() -> None:
    keep_freed_memory()
    address, api_key, floats, period_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    tensor = np.arange(floats, dtype=np.float32).tobytes()
    request = ModelInferRequest(
        model_name="echo",
        inputs=[ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, floats])],
        raw_input_contents=[tensor],
    )
    body = request.SerializeToString()
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    options = [("grpc.max_receive_message_length", 80 << 20), ("grpc.max_send_message_length", -1)]
    answered = 0
    with grpc.insecure_channel(address, options=options) as channel:
        # Bytes in, bytes out: parsing would take the processor from the servers that are measured.
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        sys.stdout.write("started\n")
        sys.stdout.flush()
        due = time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            due += period_s
            answer: bytes = infer(body, metadata=(("x-api-key", api_key),), timeout=60)
            if not answer.endswith(tensor):
                raise SystemExit("the tensor came back changed")
            answered += 1
    sys.stdout.write(f"{answered}\n")


if __name__ == "__main__":
    main()
