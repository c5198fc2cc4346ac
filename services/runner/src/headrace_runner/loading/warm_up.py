"""The first execution of a model, which is slower than all others, on inputs of zeros."""

from __future__ import annotations

import math

import numpy as np
import structlog

from headrace_runner.backends.contract import LoadedModel
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.signature import Signature

_ELEMENTS_MAX = 1 << 24


def warm_up(model: LoadedModel, signature: Signature, name: str) -> bool:
    """Runs a model once, free axes taken as 1. Blocks. A model that can't compute zeros is no error.

    Returns:
        Whether the model has run.
    """
    inputs: dict[str, Array] = {}
    for spec in signature.inputs.values():
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        if spec.optional:
            continue
        if math.prod(shape) > _ELEMENTS_MAX:
            return False
        dtype = DATATYPES[spec.datatype].dtype
        inputs[spec.name] = np.full(shape, b"", dtype=dtype) if dtype.hasobject else np.zeros(shape, dtype=dtype)
    try:
        model.infer(inputs, list(signature.outputs), {})
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        structlog.stdlib.get_logger("loading").info("warm-up did not run", model=name, error=str(error))
        return False
    return True
