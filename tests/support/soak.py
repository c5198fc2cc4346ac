"""What the long proofs share."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

from inference.open_inference_pb2 import ModelInferRequest

Tensor = ModelInferRequest.InferInputTensor
Measured = Callable[[str, str, str], None]
"""Takes a row of the report: what was done, what was demanded, what was measured."""


def scrape(url: str) -> dict[str, float]:
    """A process's metrics by name and labels, as they are written."""
    with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - a loopback URL of our own mesh
        text = response.read().decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
