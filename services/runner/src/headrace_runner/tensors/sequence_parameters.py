"""The parameters by which a request says that it belongs to a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_runner.tensors.parameters import ParameterValue

ID_BYTES_MAX = 128
_UINT64 = (1 << 64) - 1


class SequenceUse(NamedTuple):
    """What a request does with its sequence.

    Attributes:
        id: The caller's name for it, a number from 1 or a text; 7 and "7" are two sequences.
        start: Whether it begins, or begins anew, with this request.
        end: Whether it ends with it.
    """

    id: int | str
    start: bool = False
    end: bool = False


def read_sequence(parameters: Mapping[str, ParameterValue]) -> SequenceUse | None:
    """The sequence of a request; None where it names none, or names it 0 or "", which is Triton's word for none.

    As with Triton, a number below 0 is its two's complement.

    Raises:
        ValidationError: PARAMETER_INVALID (INVALID_ARGUMENT).
    """
    start = _flag(parameters, "sequence_start")
    end = _flag(parameters, "sequence_end")
    name = parameters.get("sequence_id", 0)
    if isinstance(name, bool | float):
        raise _invalid("sequence_id", "must be a whole number or a text")
    if isinstance(name, str):
        if len(name.encode()) > ID_BYTES_MAX:
            raise _invalid("sequence_id", f"has more than {ID_BYTES_MAX} bytes")
    else:
        name &= _UINT64
    return SequenceUse(name, start, end) if name else None


def _flag(parameters: Mapping[str, ParameterValue], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise _invalid(name, "must be a truth value")
    return value


def _invalid(name: str, complaint: str) -> ValidationError:
    field = f"parameters.{name}"
    return ValidationError(
        f"{field} {complaint}", entry=catalogue.PARAMETER_INVALID, context={"parameter": name}, field=field
    )
