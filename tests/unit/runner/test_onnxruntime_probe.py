"""Where ONNX Runtime is said to compute, and the sum that shows whether it does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest

from headrace_runner.backends import onnxruntime_probe
from headrace_runner.backends.onnxruntime_probe import Probe, open_session, sum_model, usable_devices

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def build_with(*providers: str) -> Any:
    """A build of ONNX Runtime whose sessions end on the processor whatever they are asked for."""
    session = SimpleNamespace(get_providers=lambda: [CPU])
    return SimpleNamespace(
        get_available_providers=lambda: list(providers), InferenceSession=lambda *_args, **_options: session
    )


@pytest.mark.parametrize(
    ("providers", "card", "devices"),
    [
        ([CPU], False, ("cpu",)),
        ([CPU], True, ("cpu",)),
        ([CUDA, CPU], False, ("cpu",)),
        (["TensorrtExecutionProvider", CUDA, CPU], True, ("cuda", "cpu")),
    ],
)
def test_cuda_needs_a_build_and_a_card(
    providers: list[str], card: bool, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_probe, "has_cuda_device", lambda: card)
    assert usable_devices(build_with(*providers)) == devices


def test_a_session_that_fell_back_to_the_processor_is_refused() -> None:
    with pytest.raises(RuntimeError, match=CUDA):
        open_session(build_with(CUDA, CPU), b"", None, "cuda")


def test_the_probe_is_a_valid_model_and_its_sum_is_right() -> None:
    onnx.checker.check_model(onnx.load_from_string(sum_model()), full_check=True)
    probe = Probe()
    assert probe.run("cpu") and probe.run("cpu")
    assert "cpu" in usable_devices(onnxruntime)
