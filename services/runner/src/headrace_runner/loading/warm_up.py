"""The first execution of a model, which is slower than all others, on inputs of zeros."""

from __future__ import annotations

import math
import threading

import numpy as np
import structlog

from headrace_runner.backends.contract import Interruptible, LoadedModel
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.signature import Signature

_ELEMENTS_MAX = 1 << 24


def warm_up(model: LoadedModel, signature: Signature, name: str, *, timeout_s: float) -> bool:
    """Runs a model once, free axes taken as 1. Blocks. A model that can't compute zeros is no error.

    A model that can be interrupted is, after `timeout_s`: its graph is a tenant's and may never end.

    Returns:
        Whether the model has run to its end.
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
    limit = threading.Timer(timeout_s, model.interrupt) if isinstance(model, Interruptible) else None
    if limit is not None:
        limit.daemon = True
        limit.start()
    try:
        model.infer(inputs, list(signature.outputs), {})
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        structlog.stdlib.get_logger("loading").info("warm-up did not run", model=name, error=str(error))
        return False
    finally:
        if limit is not None:
            limit.cancel()
            # So that a late interrupt can't hit the model's first call.
            limit.join()
    return True
