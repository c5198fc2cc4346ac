"""The one place where sampling parameters are checked, whichever protocol they came by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_runner.backends.generation import GRAMMAR_BYTES_MAX, SCHEMA_BYTES_MAX, SEEDS, Sampling

TOKENS_MAX = (1 << 32) - 1
"""Stands for no bound of one's own: generation ends at the end of the context at the latest."""
TOP_LOGPROBS_MAX = 20
_STOPS_MAX = 16
_STOP_BYTES_MAX = 256
_BIASES_MAX = 1_024
# 0.01 as a float of 32 bits, which is what requests have. llama.cpp divides by less to infinity.
_PENALTY_MIN = 0.009999999776482582
# What llama.cpp divides by less is no number any more.
_TEMPERATURE_MIN = 1e-4
_SHOWN_CHARACTERS = 40


class Range(NamedTuple):
    """Numbers that a field may have.

    Attributes:
        whole: Whether only whole ones are allowed.
        above: Whether the minimum itself is not.
    """

    minimum: float
    maximum: float
    whole: bool = False
    above: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.above:
            return f"{kind} above {self.minimum}, at most {self.maximum}"
        return f"{kind} from {self.minimum:g}" + (f" to {self.maximum}" if self.maximum < TOKENS_MAX else "")

    def check(self, field: str, value: object) -> Any:
        """The number; one that JSON wrote as `5.0` counts as whole.

        Raises:
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT), also for NaN and infinities.
        """
        if isinstance(value, int | float) and not isinstance(value, bool):
            fits = self.minimum < value if self.above else self.minimum <= value
            if fits and value <= self.maximum and (not self.whole or value == int(value)):
                return int(value) if self.whole else float(value)
        context = {"field": field, "minimum": self.minimum, "maximum": self.maximum}
        raise ValidationError(f"{field} is {_shown(value)}; it must be {self}", context=context, field=field)


def check_stop(field: str, value: object) -> tuple[str, ...]:
    """Texts that end a completion; a single one may stand alone.

    Raises:
        ValidationError: FIELD_TOO_LONG or FIELD_INVALID (INVALID_ARGUMENT).
    """
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, Sequence) or isinstance(stops, bytes):
        raise invalid(field, "must be a list of texts")
    listed = cast("Sequence[object]", stops)
    if len(listed) > _STOPS_MAX:
        raise too_long(field, f"has {len(listed)} texts", _STOPS_MAX)
    return tuple(_text(f"{field}[{index}]", stop, _STOP_BYTES_MAX) for index, stop in enumerate(listed))


def _check_biases(field: str, value: object) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise invalid(field, "must be a map from tokens to numbers")
    biases = cast("Mapping[object, object]", value)
    if len(biases) > _BIASES_MAX:
        raise too_long(field, f"has {len(biases)} tokens", _BIASES_MAX)
    checked: dict[int, float] = {}
    for token, bias in biases.items():
        # Keys of JSON are texts.
        whole = int(token) if isinstance(token, str) and token.isdecimal() and len(token) <= 10 else token
        token_id = Range(0, (1 << 32) - 1, whole=True).check(f"{field} (its key)", whole)
        checked[token_id] = Range(-100, 100).check(f"{field}[{token_id}]", bias)
    return checked


def _check_temperature(field: str, value: object) -> float:
    temperature: float = Range(0, 5).check(field, value)
    return temperature if temperature >= _TEMPERATURE_MIN else 0.0


def _check_flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise invalid(field, "must be a truth value")
    return value


def _check_schema(field: str, value: object) -> str:
    return _text(field, json.dumps(value) if isinstance(value, dict) else value, SCHEMA_BYTES_MAX)


def _check_grammar(field: str, value: object) -> str:
    return _text(field, value, GRAMMAR_BYTES_MAX)


_CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "max_tokens": Range(1, TOKENS_MAX, whole=True).check,
    "temperature": _check_temperature,
    "top_p": Range(0, 1, above=True).check,
    "top_k": Range(0, 100_000, whole=True).check,
    "min_p": Range(0, 1).check,
    "repetition_penalty": Range(_PENALTY_MIN, 5).check,
    "presence_penalty": Range(-2, 2).check,
    "frequency_penalty": Range(-2, 2).check,
    "stop": check_stop,
    "seed": Range(0, SEEDS - 1, whole=True).check,
    "logit_bias": _check_biases,
    "ignore_end": _check_flag,
    "json_schema": _check_schema,
    "grammar": _check_grammar,
}
NAMES = frozenset(_CHECKS)
"""Names of the parameters, those of `SamplingParameters`."""


class Given(NamedTuple):
    """A parameter as it was sent: the path to it, for messages, and its value."""

    field: str
    value: object


def check_sampling(given: Mapping[str, Given], *, top_logprobs: int | None, seeds: Callable[[], int]) -> Sampling:
    """How one completion is made. Names must be of `NAMES`.

    Args:
        given: The parameters by name.
        top_logprobs: Checked already.
        seeds: Gives the seed where none is given.

    Raises:
        ValidationError: FIELD_INVALID or FIELD_TOO_LONG (INVALID_ARGUMENT).
    """
    checked = {name: _CHECKS[name](field, value) for name, (field, value) in given.items()}
    if "json_schema" in checked and "grammar" in checked:
        raise invalid(given["grammar"].field, "and json_schema can't be given together")
    if checked.get("ignore_end") and not checked.keys().isdisjoint(("json_schema", "grammar")):
        # Where it is complete nothing else may come.
        raise invalid(given["ignore_end"].field, "can't be given together with json_schema or grammar")
    checked.setdefault("max_tokens", TOKENS_MAX)
    if "seed" not in checked:
        checked["seed"] = seeds() % SEEDS
    return Sampling(**checked, top_logprobs=top_logprobs)


def invalid(field: str, complaint: str) -> ValidationError:
    """FIELD_INVALID: a value that the field can't have."""
    return ValidationError(f"{field} {complaint}", context={"field": field}, field=field)


def too_long(field: str, complaint: str, limit: int) -> ValidationError:
    """FIELD_TOO_LONG: more than the field may have."""
    return ValidationError(
        f"{field} {complaint}; at most {limit} are allowed",
        entry=catalogue.FIELD_TOO_LONG,
        context={"field": field, "limit": limit},
        field=field,
    )


def _text(field: str, value: object, bytes_max: int) -> str:
    if not isinstance(value, str):
        raise invalid(field, "must be a text")
    if not value:
        raise invalid(field, "must not be empty")
    # No character takes less than a byte, so what is far too long is not encoded.
    if len(value) > bytes_max:
        raise too_long(field, "has more bytes than that", bytes_max)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise invalid(field, "is not valid text") from None
    if size > bytes_max:
        raise too_long(field, f"has {size} bytes", bytes_max)
    return value


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_CHARACTERS] if isinstance(value, int | float | str) else "of another type"
