"""Has a language model continue prompts with an unchanged tritonclient; run by the tests with .venv-triton's Python.

    generate.py ENDPOINT API_KEY MODEL PROMPTS.json OUTPUT.json

PROMPTS is a list of texts and the JSON of the sampling parameters, OUTPUT the list of texts that came, and how many
answers each prompt had.
"""

from __future__ import annotations

import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

TIMEOUT_S = 100


def tensors(prompt: str, sampling: str) -> list[triton.InferInput]:
    """The inputs of Triton's own language models."""
    values = {
        "text_input": np.array([prompt.encode()], object),
        "stream": np.array([True]),
        "sampling_parameters": np.array([sampling.encode()], object),
        "exclude_input_in_output": np.array([True]),
    }
    made = []
    for name, array in values.items():
        tensor = triton.InferInput(name, [1], "BOOL" if array.dtype == bool else "BYTES")
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def texts_of(answers: queue.Queue, prompts: int) -> list[tuple[str, int]]:
    """The whole text of each prompt and the number of its answers, up to all final ones."""
    texts: list[list[bytes]] = [[] for _ in range(prompts)]
    finals = 0
    while finals < prompts:
        result, error = answers.get(timeout=TIMEOUT_S)
        if error is not None:
            raise error
        response, output = result.get_response(), result.as_numpy("text_output")
        texts[int(response.id)].append(b"" if output is None else output[0])
        finals += response.parameters["triton_final_response"].bool_param
    return [(b"".join(parts).decode(), len(parts)) for parts in texts]


def main() -> None:
    """Reads the command line, asks for all prompts at once on one stream, writes."""
    endpoint, api_key, model, read_from, write_to = sys.argv[1:]
    prompts, sampling = json.loads(Path(read_from).read_text())
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(endpoint) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)), headers={"x-api-key": api_key})
        for number, prompt in enumerate(prompts):
            client.async_stream_infer(
                model, tensors(prompt, sampling), request_id=str(number), enable_empty_final_response=True
            )
        got = texts_of(answers, len(prompts))
        client.stop_stream()
    Path(write_to).write_text(json.dumps(got))


if __name__ == "__main__":
    main()
