"""Finds the speech in a recording with silero's detector on the mesh, frame by frame, as a live caller would.

    .venv/bin/python examples/voice_activity.py [--endpoint HOST:PORT] [--api-key KEY] [RECORDING.wav]

The model keeps no memory between calls: each answer brings its next state, which travels with the next frame, so
any runner can serve any frame. Without a file it listens to a recorded conversation from an installed package.
"""

from __future__ import annotations

import argparse
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from headrace_cli.samples import sample_speech
from inference.open_inference_pb2 import ModelInferRequest
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

Tensor = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor
STARTS_AT = 0.5
ENDS_BELOW = 0.35
PAUSE_S = 0.1
COLUMNS = 75


def read_samples(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples from -1 to 1 and their rate in hertz, from a mono 16-bit WAV file of 8 or 16 kHz."""
    with wave.open(str(path)) as audio:
        rate = audio.getframerate()
        if audio.getnchannels() != 1 or audio.getsampwidth() != 2 or rate not in (8000, 16000):
            raise ValueError(f"{path}: want mono, 16 bits, 8 or 16 kHz")
        pcm = audio.readframes(audio.getnframes())
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768), rate


def speech_probabilities(samples: NDArray[np.float32], rate: int, *, endpoint: str, api_key: str) -> Iterator[float]:
    """One probability for each frame of 32 ms; each frame is a request that carries the state of the one before."""
    frame, context = rate * 32 // 1000, rate * 4 // 1000
    padded = np.concatenate([np.zeros(context, np.float32), samples])
    state = bytes(2 * 1 * 128 * 4)
    with grpc.insecure_channel(endpoint) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for start in range(0, len(samples) - frame + 1, frame):
            heard = padded[start : start + context + frame]
            request = ModelInferRequest(
                model_name="silero_vad",
                inputs=[
                    Tensor(name="input", datatype="FP32", shape=[1, len(heard)]),
                    Tensor(name="state", datatype="FP32", shape=[2, 1, 128]),
                    Tensor(name="sr", datatype="INT64", shape=[]),
                ],
                raw_input_contents=[heard.tobytes(), state, rate.to_bytes(8, "little")],
                outputs=[Output(name="output"), Output(name="stateN")],
            )
            answer = stub.ModelInfer(request, metadata=(("x-api-key", api_key),), timeout=10)
            probability, state = answer.raw_output_contents
            yield float(np.frombuffer(probability, np.float32)[0])


def speech_segments(probabilities: list[float], frame_s: float) -> Iterator[tuple[float, float]]:
    """Start and end of each stretch of speech in seconds; pauses shorter than PAUSE_S don't end one."""
    start: float | None = None
    last_heard = 0.0
    for index, probability in enumerate(probabilities):
        now = index * frame_s
        if probability >= STARTS_AT and start is None:
            start = now
        if probability >= ENDS_BELOW:
            last_heard = now + frame_s
        elif start is not None and now + frame_s - last_heard >= PAUSE_S:
            yield start, last_heard
            start = None
    if start is not None:
        yield start, last_heard


def print_timeline(probabilities: list[float], length_s: float) -> None:
    """A bar for the whole recording, then one line for each stretch of speech."""
    columns = np.array_split(np.array(probabilities), min(COLUMNS, len(probabilities)))
    print("".join(" ▁▂▃▄▅▆▇█"[round(float(column.mean()) * 8)] for column in columns))
    segments = list(speech_segments(probabilities, 0.032))
    for start, end in segments:
        bar = " " * round(start / length_s * COLUMNS) + "━" * max(1, round((end - start) / length_s * COLUMNS))
        print(f"{bar:<{COLUMNS}}  {start:6.2f} s to {end:6.2f} s")
    spoken = sum(end - start for start, end in segments)
    print(f"{spoken:.1f} s of speech in {length_s:.1f} s, {len(probabilities)} frames")


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached, 2 for a bad file."""
    parser = argparse.ArgumentParser(description="Find the speech in a recording with silero's detector.")
    parser.add_argument("recording", nargs="?", type=Path, default=sample_speech(), help="mono 16-bit WAV file")
    parser.add_argument("--endpoint", default="127.0.0.1:8081", help="gateway, default %(default)s")
    parser.add_argument("--api-key", default="community", help="default %(default)s")
    options = parser.parse_args()
    if options.recording is None:
        parser.error("no sample recording is installed: name a WAV file")
    try:
        samples, rate = read_samples(options.recording)
        calls = speech_probabilities(samples, rate, endpoint=options.endpoint, api_key=options.api_key)
        print_timeline(list(calls), len(samples) / rate)
    except (OSError, ValueError, wave.Error) as error:
        print(error, file=sys.stderr)
        return 2
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
