"""Real files and real speech for the sample models, with what the models say to them inside this process."""

# onnxruntime and magika have incomplete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import os
import sys
import sysconfig
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
from magika import Magika
from magika.types import Seekable
from numpy.typing import NDArray

from headrace_cli.samples import available_samples, sample_speech

REPOSITORY = Path(__file__).parents[2]
SUFFIXES = (
    *(".py", ".pyi", ".pyc", ".pyx", ".so", ".c", ".h", ".hpp", ".cpp", ".js", ".css", ".html", ".sh", ".bat", ".sql"),
    *(".json", ".toml", ".yaml", ".yml", ".proto", ".lock", ".xml", ".csv", ".svg", ".png", ".ico", ".md", ".rst"),
    *(".txt", ".npy", ".npz", ".whl", ".zip", ".gz", ".exe", ".wav", ".onnx", ".ttf", ".mat", ".safetensors"),
)
FILES_PER_SUFFIX = 2
FILES_MIN = 30
FILES_MAX = 40
SIZE_MIN = 65
FRAME = 512
CONTEXT = 64


@dataclass(frozen=True, kw_only=True)
class FileCase:
    """One file as magika sees it."""

    path: Path
    features: NDArray[np.int32]
    """The model's input, made by magika's own code, shape (2048,)."""
    scores: NDArray[np.float32]
    """The model's output in this process, shape (classes,)."""
    label: str
    """What magika itself takes the file for, before it weighs how sure it is."""


@dataclass(frozen=True, kw_only=True)
class SpeechCase:
    """One frame of a conversation as silero's detector sees it."""

    frame: NDArray[np.float32]
    """The frame after the end of the one before, shape (1, 576)."""
    output: NDArray[np.float32]
    """Probability of speech in this process, shape (1, 1)."""
    state: NDArray[np.float32]
    """State after this frame in this process, shape (2, 1, 128)."""


def _model(name: str) -> onnxruntime.InferenceSession:
    (sample,) = (sample for sample in available_samples() if sample.name == name)
    return onnxruntime.InferenceSession(sample.model_path, providers=["CPUExecutionProvider"])


def _run(
    session: onnxruntime.InferenceSession, **inputs: NDArray[np.float32 | np.int32 | np.int64]
) -> list[NDArray[np.float32]]:
    return cast("list[NDArray[np.float32]]", session.run(None, inputs))


def real_files() -> list[Path]:
    """Up to FILES_PER_SUFFIX files of each suffix from this repository, its environment and Python itself.

    Raises:
        RuntimeError: There are fewer than FILES_MIN, which would prove too little.
    """
    roots = (REPOSITORY / "protos", REPOSITORY / "libs", sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"))
    wanted: dict[str, list[Path]] = {suffix: [] for suffix in SUFFIXES}
    found: list[Path] = [REPOSITORY / "Makefile", REPOSITORY / "LICENSE", Path(sys.executable).resolve()]
    for folder, folders, names in (entry for root in roots for entry in os.walk(root)):
        folders.sort()
        for name in sorted(names):
            chosen = wanted.get(os.path.splitext(name)[1])  # noqa: PTH122 - of tens of thousands of names
            if chosen is not None and len(chosen) < FILES_PER_SUFFIX:
                path = Path(folder, name)
                if path.is_file() and path.stat().st_size >= SIZE_MIN:
                    chosen.append(path)
    found += [
        path for rank in range(FILES_PER_SUFFIX) for chosen in wanted.values() for path in chosen[rank : rank + 1]
    ]
    if len(found) < FILES_MIN:
        raise RuntimeError(f"only {len(found)} files of the wanted types on this machine")
    return found


def file_cases() -> list[FileCase]:
    """The first FILES_MAX real files that magika asks its model about."""
    session, magika = _model("magika"), Magika()
    cases: list[FileCase] = []
    for path in real_files():
        if len(cases) == FILES_MAX:
            break
        content = path.read_bytes()
        extracted = Magika._extract_features_from_seekable(  # pyright: ignore[reportPrivateUsage]
            Seekable(BytesIO(content)), 1024, 0, 1024, 256, 4096, False
        )
        features = np.array([*extracted.beg, *extracted.end], np.int32)
        prediction = magika.identify_path(path).prediction
        if prediction.dl.label != "undefined":
            (scores,) = _run(session, bytes=features[None])
            cases.append(FileCase(path=path, features=features, scores=scores[0], label=str(prediction.dl.label)))
    if len(cases) < FILES_MIN:
        raise RuntimeError(f"magika asks its model about only {len(cases)} of the files")
    return cases


def batch_scores(features: NDArray[np.int32]) -> NDArray[np.float32]:
    """The file-type model's output in this process for all rows at once, shape (files, classes)."""
    (scores,) = _run(_model("magika"), bytes=features)
    return scores


def speech_frames(first: int = 0, count: int | None = None) -> Iterator[NDArray[np.float32]]:
    """Frames of the sample conversation with their context, each of shape (1, 576)."""
    path = sample_speech()
    if path is None:
        raise RuntimeError("the pyannote-audio wheel is not installed; run `make setup`")
    with wave.open(str(path)) as audio:
        pcm = audio.readframes(audio.getnframes())
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
    last = len(samples) // FRAME if count is None else first + count
    for index in range(first, last):
        yield padded[None, index * FRAME : (index + 1) * FRAME + CONTEXT]


def speech_cases(first: int = 0, count: int | None = None) -> list[SpeechCase]:
    """The frames with the detector's answers, the state carried from frame to frame from zeros at the first."""
    session = _model("silero_vad")
    state = np.zeros((2, 1, 128), np.float32)
    cases: list[SpeechCase] = []
    for frame in speech_frames(first, count):
        output, state = _run(session, input=frame, state=state, sr=np.array(16000, np.int64))
        cases.append(SpeechCase(frame=frame, output=output, state=state))
    return cases
