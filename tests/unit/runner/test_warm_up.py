"""What a model is run on before it takes calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headrace.registry.v1.manifest_pb2 import WarmUpSample, WarmUpTensor
from headrace_runner.loading.warm_up import warm_up
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.parameters import ParameterValue
from headrace_runner.tensors.signature import Signature, TensorSpec


class Recorder:
    """A model that notes what it is run on."""

    inputs: Sequence[TensorSpec] = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("s", "BYTES", (-1,)))
    outputs: Sequence[TensorSpec] = (TensorSpec("z", "FP32", (-1,)),)
    memory_bytes = 1

    def __init__(self, *, fails: bool = False) -> None:
        self.seen: list[dict[str, Array]] = []
        self._fails = fails

    def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, ParameterValue]
    ) -> Sequence[Array]:
        self.seen.append(dict(inputs))
        if self._fails:
            raise RuntimeError("not with zeros")
        return [np.zeros(1, np.float32)]

    def close(self) -> None:
        pass


def warmed(*samples: WarmUpSample, fails: bool = False) -> tuple[bool, list[dict[str, Array]]]:
    model = Recorder(fails=fails)
    signature = Signature(inputs=model.inputs, outputs=model.outputs)
    return warm_up(model, signature, samples, "m:1", timeout_s=5), model.seen


def test_without_samples_it_is_one_run_of_zeros_and_short_texts() -> None:
    ran, seen = warmed()
    assert ran
    assert [x["x"].tolist() for x in seen] == [[[0, 0, 0]]]
    assert seen[0]["s"].tolist() == [b"a"]


def test_samples_are_run_as_often_and_on_what_they_say() -> None:
    stated = np.arange(6, dtype=np.float32)
    sample = WarmUpSample(
        count=3,
        inputs={
            "x": WarmUpTensor(shape=[2, 3], raw=stated.tobytes()),
            "s": WarmUpTensor(shape=[2], raw=b"\1\0\0\0a\2\0\0\0bc"),
        },
    )
    random = WarmUpSample(inputs={"x": WarmUpTensor(shape=[4, 3], random=True)})
    _, seen = warmed(sample, random)
    assert len(seen) == 4
    assert all((x["x"] == stated.reshape(2, 3)).all() and x["s"].tolist() == [b"a", b"bc"] for x in seen[:3])
    assert seen[3]["x"].shape == (4, 3)
    assert 0 < np.unique(seen[3]["x"]).size == 12


def test_a_model_that_can_not_compute_them_is_no_error() -> None:
    ran, seen = warmed(fails=True)
    assert not ran
    assert len(seen) == 1


def test_a_sample_beyond_all_bounds_is_not_made() -> None:
    ran, seen = warmed(WarmUpSample(inputs={"x": WarmUpTensor(shape=[1 << 40, 3])}))
    assert not ran
    assert seen == []
