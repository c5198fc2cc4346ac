"""The first executions of a model, which are slower than all others: samples of its manifest, zeros, or a token."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from contextlib import aclosing

import numpy as np
import structlog

from headrace.registry.v1.manifest_pb2 import WarmUpSample, WarmUpTensor
from headrace_runner.backends.contract import Interruptible, LoadedModel
from headrace_runner.backends.generation import GenerativeModel, Sampling
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_request import RequestTensor
from headrace_runner.tensors.signature import Signature, TensorSpec

_ELEMENTS_MAX = 1 << 24
_INTERRUPT_AGAIN_S = 0.05


def warm_up(
    model: LoadedModel, signature: Signature, samples: Sequence[WarmUpSample], name: str, *, timeout_s: float
) -> bool:
    """Runs a model on its samples, or once on zeros where it has none. Blocks.

    A model that can't compute them is no error. One that can be interrupted is, after `timeout_s` for all samples: its
    graph is a tenant's and may never end.

    Returns:
        Whether the model has run all of them to their end.
    """
    limit = _Limit(model, timeout_s)
    try:
        for sample in samples or [WarmUpSample()]:
            inputs = _inputs_of(sample, signature)
            for _ in range(max(1, sample.count)):
                if limit.reached:
                    return False
                model.infer(inputs, list(signature.outputs), {})
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        structlog.stdlib.get_logger("loading").info("warm-up did not run", model=name, error=str(error))
        return False
    finally:
        limit.close()
    return True


async def warm_up_generation(model: GenerativeModel, name: str, *, timeout_s: float) -> bool:
    """Generates one token, for whatever a model puts off until its first. One that can't is no error.

    Returns:
        Whether it did within `timeout_s`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            prompt = await model.tokens_of("a")
            async with aclosing(model.generate(prompt, Sampling(max_tokens=1, temperature=0.0, seed=0))) as events:
                async for _ in events:
                    pass
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        structlog.stdlib.get_logger("loading").info("warm-up did not run", model=name, error=str(error))
        return False
    return True


class _Limit:
    """Interrupts a model again and again once its time is over: an execution that was about to begin may miss one."""

    def __init__(self, model: LoadedModel, timeout_s: float) -> None:
        self.reached = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if isinstance(model, Interruptible):
            self._thread = threading.Thread(target=self._watch, args=(model, timeout_s), daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Interrupts no more, so that no late one can hit the model's first call."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, model: Interruptible, timeout_s: float) -> None:
        pause_s = timeout_s
        while not self._ended.wait(pause_s):
            self.reached = True
            model.interrupt()
            pause_s = _INTERRUPT_AGAIN_S


def _inputs_of(sample: WarmUpSample, signature: Signature) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    # One generator for each sample, so that every load computes the same.
    random = np.random.default_rng(0)
    for spec in signature.inputs.values():
        if spec.name in sample.inputs:
            inputs[spec.name] = _stated(sample.inputs[spec.name], spec, random)
        elif not spec.optional:
            # Models of language refuse a text without characters.
            inputs[spec.name] = _zeros(spec.datatype, tuple(1 if size < 0 else size for size in spec.shape), text=b"a")
    return inputs


def _stated(stated: WarmUpTensor, spec: TensorSpec, random: np.random.Generator) -> Array:
    shape = tuple(stated.shape)
    if stated.raw:
        return to_array(RequestTensor(spec.name, spec.datatype, shape, memoryview(stated.raw), ()))
    dtype = DATATYPES[spec.datatype].dtype
    if not stated.random or dtype.hasobject or spec.datatype == "BF16":
        return _zeros(spec.datatype, shape)
    if dtype.kind == "f":
        return random.random(_bounded(shape)).astype(dtype)
    if dtype.kind == "b":
        return random.random(_bounded(shape)) < 0.5
    bounds = np.iinfo(dtype)
    return random.integers(bounds.min, bounds.max, size=_bounded(shape), dtype=dtype, endpoint=True)


def _zeros(datatype: str, shape: tuple[int, ...], *, text: bytes = b"") -> Array:
    dtype = DATATYPES[datatype].dtype
    return np.full(_bounded(shape), text, dtype=dtype) if dtype.hasobject else np.zeros(_bounded(shape), dtype=dtype)


def _bounded(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > _ELEMENTS_MAX:
        raise ValueError(f"a tensor of shape {list(shape)} is too large to warm up with")
    return shape
