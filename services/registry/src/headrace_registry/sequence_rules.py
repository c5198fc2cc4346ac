"""What a manifest may say of the state that runners keep. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.registry.v1.manifest_pb2 import SequencePolicy, SequenceState, TensorSpec
from headrace_registry.execution_rules import check_duration
from headrace_registry.field_rules import TEXT_CHARS_MAX
from headrace_registry.manifest_faults import mismatch, wrong
from headrace_registry.tensor_rules import check_elements, check_fits, check_raw

IDLE_MAX_S = 3_600
SEQUENCES_MAX = 65_536


def check_sequence(policy: SequencePolicy) -> None:
    """Refuses what can't be right whatever the model's tensors are.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT); names the field and its limit.
    """
    if policy.HasField("idle_timeout"):
        check_duration("sequence.idle_timeout", policy.idle_timeout, max_s=IDLE_MAX_S)
    if policy.sequences_max > SEQUENCES_MAX:
        raise wrong("sequence.sequences_max", f"is {policy.sequences_max}, at most {SEQUENCES_MAX} is allowed")
    if not policy.states:
        raise wrong("sequence.states", "must have at least one element")
    seen: set[tuple[str, str]] = set()
    for index, state in enumerate(policy.states):
        field = f"sequence.states[{index}]"
        for kind, name in (("input", state.input), ("output", state.output)):
            if not name:
                raise wrong(f"{field}.{kind}", "is required")
            if (kind, name) in seen:
                raise wrong(f"{field}.{kind}", f"repeats '{name[:TEXT_CHARS_MAX]}'")
            seen.add((kind, name))
        check_elements(f"{field}.shape", state.shape)


def check_states(
    states: Sequence[SequenceState], *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Refuses state that the model's tensors can't hold. It has passed `check_sequence`.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT): names the field and what was expected;
            MODEL_MANIFEST_INVALID: the initial state is too large.
    """
    known_inputs = {spec.name: spec for spec in inputs}
    known_outputs = {spec.name: spec for spec in outputs}
    for index, state in enumerate(states):
        field = f"sequence.states[{index}]"
        taken = _named(f"{field}.input", state.input, known_inputs, "input")
        given = _named(f"{field}.output", state.output, known_outputs, "output")
        if given.datatype != taken.datatype:
            raise mismatch(f"{field}.output", f"is {given.datatype}, the input '{taken.name}' takes {taken.datatype}")
        if len(given.shape) != len(taken.shape) or any(
            have != want and -1 not in (have, want) for have, want in zip(given.shape, taken.shape, strict=True)
        ):
            raise mismatch(
                f"{field}.output", f"has the shape {list(given.shape)}, '{taken.name}' takes {list(taken.shape)}"
            )
        shape = list(state.shape) or [1 if size < 0 else size for size in taken.shape]
        check_elements(f"{field}.shape", shape)
        check_fits(f"{field}.shape", shape, taken)
        if state.initial:
            check_raw(f"{field}.initial", state.initial, datatype=taken.datatype, shape=shape)


def _named(field: str, name: str, known: Mapping[str, TensorSpec], kind: str) -> TensorSpec:
    spec = known.get(name)
    if spec is None:
        raise mismatch(field, f"is '{name[:TEXT_CHARS_MAX]}', the model has no such {kind}")
    return spec
