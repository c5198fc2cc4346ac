"""What holds a runner's slots for as long as a test wants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.gate import Gate, gated


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Open until the test shuts it; executions of ONNX models wait in front of it."""
    with gated() as gate:
        yield gate
