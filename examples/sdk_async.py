"""Finds the speech in recordings with the SDK's asyncio client, frame by frame, as live callers would.

    .venv/bin/python examples/sdk_async.py [--endpoint HOST:PORT] [--api-key KEY] [RECORDING.wav ...]

All recordings are listened to at the same time, each by a task of its own. The model keeps no memory between calls:
each answer brings its next state, which travels with the next frame, so any runner can serve any frame. Without a file
it listens to a recorded conversation from an installed package.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace_cli.samples import sample_speech
from headrace_client import AsyncClient, HeadraceError

FRAME_S = 0.032
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


async def listen(client: AsyncClient, samples: NDArray[np.float32], rate: int) -> list[float]:
    """A probability of speech for each frame of 32 ms; each frame is a request with the state of the one before."""
    frame, context = rate * 32 // 1000, rate * 4 // 1000
    padded = np.concatenate([np.zeros(context, np.float32), samples])
    state = np.zeros((2, 1, 128), np.float32)
    probabilities: list[float] = []
    for start in range(0, len(samples) - frame + 1, frame):
        heard = padded[None, start : start + context + frame]
        inputs = {"input": heard, "state": state, "sr": np.int64(rate)}
        result = await client.infer("silero_vad", inputs, outputs=["output", "stateN"], timeout_s=10)
        state = result["stateN"]
        probabilities.append(float(result["output"][0, 0]))
    return probabilities


def speech_segments(probabilities: list[float]) -> Iterator[tuple[float, float]]:
    """Start and end of each stretch of speech in seconds; pauses shorter than PAUSE_S don't end one."""
    start: float | None = None
    last_heard = 0.0
    for index, probability in enumerate(probabilities):
        now = index * FRAME_S
        if probability >= STARTS_AT and start is None:
            start = now
        if probability >= ENDS_BELOW:
            last_heard = now + FRAME_S
        elif start is not None and now + FRAME_S - last_heard >= PAUSE_S:
            yield start, last_heard
            start = None
    if start is not None:
        yield start, last_heard


def print_timeline(path: Path, probabilities: list[float], length_s: float) -> None:
    """A bar for the whole recording, then one line for each stretch of speech."""
    print(path.name)
    columns = np.array_split(np.array(probabilities), min(COLUMNS, len(probabilities)))
    print("".join(" ▁▂▃▄▅▆▇█"[round(float(column.mean()) * 8)] for column in columns))
    segments = list(speech_segments(probabilities))
    for start, end in segments:
        bar = " " * round(start / length_s * COLUMNS) + "━" * max(1, round((end - start) / length_s * COLUMNS))
        print(f"{bar:<{COLUMNS}}  {start:6.2f} s to {end:6.2f} s")
    spoken = sum(end - start for start, end in segments)
    print(f"{spoken:.1f} s of speech in {length_s:.1f} s, {len(probabilities)} calls")


async def listen_to_all(paths: list[Path], *, endpoint: str | None, api_key: str | None) -> None:
    """One client for all; its calls share a connection."""
    recordings = [read_samples(path) for path in paths]
    async with AsyncClient(endpoint, api_key=api_key) as client:
        heard = await asyncio.gather(*(listen(client, samples, rate) for samples, rate in recordings))
    for path, (samples, rate), probabilities in zip(paths, recordings, heard, strict=True):
        print_timeline(path, probabilities, len(samples) / rate)


def main() -> int:
    """Reads the command line; the exit status is 1 when the mesh refuses or can't be reached, 2 for a bad file."""
    parser = argparse.ArgumentParser(description="Find the speech in recordings with silero's detector.")
    parser.add_argument("recordings", nargs="*", type=Path, default=[sample_speech()], help="mono 16-bit WAV files")
    parser.add_argument("--endpoint", help="gateway, such as 127.0.0.1:8081")
    parser.add_argument("--api-key", help="the key, or @FILE")
    options = parser.parse_args()
    if None in options.recordings:
        parser.error("no sample recording is installed: name a WAV file")
    try:
        asyncio.run(listen_to_all(options.recordings, endpoint=options.endpoint, api_key=options.api_key))
    except (OSError, ValueError, EOFError, wave.Error) as error:
        print(error, file=sys.stderr)
        return 2
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
