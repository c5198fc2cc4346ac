"""What a model's manifest says of the state that the runner keeps for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.registry.v1.manifest_pb2 import Manifest, SequenceState
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_request import RequestTensor
from headrace_runner.tensors.signature import Signature, TensorSpec

_IDLE_S = 60.0
_LIVE_MAX = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTensor:
    """One tensor of the state.

    Attributes:
        input: Input that takes it.
        output: Output that gives its next value.
        datatype: Of both.
        initial: Its value at the start of a sequence.
    """

    input: str
    output: str
    datatype: str
    initial: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencePolicy:
    """How sequences of one model are kept.

    Attributes:
        model: Model and version for messages.
        states: The tensors of the state.
        idle_s: How long a sequence lives without a request, seconds.
        live_max: Sequences at the same time.
        bytes_max: Memory that their state may take.
    """

    model: str
    states: tuple[StateTensor, ...]
    idle_s: float = _IDLE_S
    live_max: int = _LIVE_MAX
    bytes_max: int


def sequence_policy_of(
    manifest: Manifest, signature: Signature, *, model: str, bytes_max: int
) -> SequencePolicy | None:
    """What the manifest asks for; None when the model keeps no state.

    Raises:
        TensorError: An initial value doesn't have the elements that it should (INVALID_ARGUMENT).
    """
    policy = manifest.sequence
    if not policy.states:
        return None
    return SequencePolicy(
        model=model,
        states=tuple(_state(state, signature.inputs[state.input]) for state in policy.states),
        idle_s=policy.idle_timeout.ToNanoseconds() / 1e9 or _IDLE_S,
        live_max=policy.sequences_max or _LIVE_MAX,
        bytes_max=bytes_max,
    )


def _state(state: SequenceState, spec: TensorSpec) -> StateTensor:
    shape = tuple(state.shape) or tuple(1 if size < 0 else size for size in spec.shape)
    dtype = DATATYPES[spec.datatype].dtype
    if state.initial:
        # A copy, because the array is a view of the manifest's bytes and outlives it.
        initial = to_array(RequestTensor(spec.name, spec.datatype, shape, memoryview(state.initial), ())).copy()
    else:
        initial = np.full(shape, b"", dtype=dtype) if dtype.hasobject else np.zeros(shape, dtype=dtype)
    return StateTensor(input=state.input, output=state.output, datatype=spec.datatype, initial=initial)
