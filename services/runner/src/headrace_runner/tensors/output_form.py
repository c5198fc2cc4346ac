"""How a caller wants the outputs written, and the parameter names that the protocol reserves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_runner.tensors.parameters import ParameterValue

Parameters = Mapping[str, ParameterValue]

_RESERVED_PREFIX = "triton_"
_EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


@dataclass(frozen=True, slots=True)
class OutputForm:
    """What an answer looks like that isn't all raw numbers.

    Attributes:
        typed: Whether elements go into `contents` of each output instead of `raw_output_contents`.
        classes: How many of the highest-scoring classes to give in place of an output's numbers, by output.
    """

    typed: bool
    classes: Mapping[str, int]


def read_output_form(parameters: Parameters, outputs: Sequence[tuple[str, Parameters]]) -> OutputForm | None:
    """What the parameters of a request and of its wanted outputs ask for; None for the usual raw form.

    `binary_data_output` of the request is the form of every output, `binary_data` that of one; a response can't mix
    both forms. `classification` is a number of classes. Names that nobody reserves are ignored.

    Raises:
        ValidationError: PARAMETER_INVALID (INVALID_ARGUMENT).
    """
    _check_reserved(parameters)
    default = _flag(parameters, "binary_data_output", "parameters")
    forms: set[bool] = set()
    classes: dict[str, int] = {}
    for index, (name, own) in enumerate(outputs):
        field = f"outputs[{index}].parameters"
        refuse_shared_memory(own, field)
        forms.add(_flag(own, "binary_data", field, default=default))
        if "classification" in own:
            classes[name] = _class_count(own["classification"], field)
    if len(forms) > 1:
        raise _invalid("binary_data", "outputs", "is false for some outputs only; a response is all raw or all typed")
    typed = not (forms.pop() if forms else default)
    return OutputForm(typed, classes) if typed or classes else None


def _check_reserved(parameters: Parameters) -> None:
    """Refuses what Triton refuses."""
    for name in parameters:
        if name.startswith(_RESERVED_PREFIX):
            if name != _EMPTY_FINAL_RESPONSE:
                raise _invalid(
                    name, "parameters", f"is reserved; of '{_RESERVED_PREFIX}*' only '{_EMPTY_FINAL_RESPONSE}' exists"
                )
            _flag(parameters, name, "parameters")


def refuse_shared_memory(parameters: Parameters, field: str) -> None:
    """Refuses a tensor that is said to lie in memory that the server would share with the caller.

    Raises:
        ValidationError: PARAMETER_INVALID (INVALID_ARGUMENT).
    """
    for name in _SHARED_MEMORY:
        if name in parameters:
            raise _invalid(name, field, "can't be used: this server has no shared memory regions")


def _flag(parameters: Parameters, name: str, field: str, *, default: bool = True) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _invalid(name, field, "must be a truth value")
    return value


def _class_count(value: ParameterValue, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _invalid("classification", field, "must be a whole number from 1")
    return value


def _invalid(name: str, field: str, complaint: str) -> ValidationError:
    path = f"{field}.{name[:64]}"
    return ValidationError(
        f"{path} {complaint}", entry=catalogue.PARAMETER_INVALID, context={"parameter": name[:64]}, field=path
    )
