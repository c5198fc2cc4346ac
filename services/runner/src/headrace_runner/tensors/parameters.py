"""The parameter map of a request."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from headrace_common import wire

ParameterValue = bool | int | float | str

_FIELDS_MAX = 256


def read_parameters(entries: Sequence[memoryview]) -> dict[str, ParameterValue]:
    """Reads serialised entries of a `map<string, InferParameter>`; of equal names the last one counts.

    A parameter without a value counts as absent.

    Raises:
        ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT).
    """
    parameters: dict[str, ParameterValue] = {}
    for entry in entries:
        key = ""
        choice: ParameterValue | None = None
        for number, _, value in wire.fields(entry, fields_max=_FIELDS_MAX):
            if number == 1:
                key = wire.text(value)
            elif number == 2:
                if isinstance(value, int):
                    raise wire.malformed()
                choice = _read_choice(value, choice)
        if choice is None:
            parameters.pop(key, None)
        else:
            parameters[key] = choice
    return parameters


def _read_choice(message: memoryview, choice: ParameterValue | None) -> ParameterValue | None:
    for number, kind, value in wire.fields(message, fields_max=_FIELDS_MAX):
        if number == 3:
            choice = wire.text(value)
        elif number == 4:
            if kind != wire.FIXED64 or not isinstance(value, int):
                raise wire.malformed()
            choice = float(struct.unpack("<d", value.to_bytes(8, "little"))[0])
        elif number in (1, 2, 5):
            if kind != wire.VARINT or not isinstance(value, int):
                raise wire.malformed()
            choice = bool(value) if number == 1 else wire.signed(value) if number == 2 else value
    return choice
