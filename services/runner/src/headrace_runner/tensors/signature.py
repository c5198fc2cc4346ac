"""What a model takes and gives, and whether a request fits it. Decided before a call may wait in a queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from headrace_common import catalogue
from headrace_common.errors import TensorError, ValidationError
from headrace_runner.tensors.classification import CLASSIFIABLE
from headrace_runner.tensors.datatypes import DATATYPES, Datatype
from headrace_runner.tensors.infer_request import InferRequest, RequestTensor
from headrace_runner.tensors.output_form import OutputForm

# More elements than fit any memory: keeps products of dimensions in range for everything that comes after.
_ELEMENTS_MAX = 1 << 48


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: Unique among the inputs, or among the outputs.
        datatype: Name of the datatype in the protocol.
        shape: Size of each axis; -1 means that the size is free.
        optional: Whether a request may leave the input out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class RawInput:
    """An input that other inputs are made of.

    Attributes:
        spec: BYTES, one element for each row.
        makes: Names of the inputs that a request must leave out beside it.
    """

    spec: TensorSpec
    makes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processed:
    """What goes into and comes out of a model's processing, beside the model's own tensors.

    Attributes:
        raw: What the model's inputs are made of; None where nothing is.
        outputs: Outputs that are made.
        default: Names of the outputs that a request with the raw input gets when it names none.
    """

    raw: RawInput | None
    outputs: Sequence[TensorSpec]
    default: tuple[str, ...]


class Signature:
    """The inputs and outputs of a model.

    Args:
        inputs: In the order of the artefact.
        outputs: In the order of the artefact.
        states: State that is kept for sequences: the inputs that take it and, by them, the outputs that give it.
        processed: The tensors of its processing; None for a model without.
    """

    def __init__(
        self,
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        states: Mapping[str, str] = MappingProxyType({}),
        processed: Processed | None = None,
    ) -> None:
        self.states = states
        self._processed = processed
        self._raw = raw = processed.raw if processed is not None else None
        taken = [raw.spec, *inputs] if raw is not None else inputs
        given = [*processed.outputs, *outputs] if processed is not None else outputs
        self.inputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in taken}
        self.outputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in given}
        self._required = frozenset(spec.name for spec in inputs if not spec.optional)
        self._all_outputs = tuple(spec.name for spec in outputs)
        # Of a sequence, whose state stays here.
        self._required_beside_state = self._required - states.keys()
        kept = frozenset(states.values())
        self._outputs_beside_state = tuple(name for name in self._all_outputs if name not in kept)
        self._required_beside_raw = (
            (self._required - raw.makes) | {raw.spec.name} if raw is not None else self._required
        )

    def in_sequence(self, request: InferRequest) -> bool:
        """Whether the model's state for this request is kept here."""
        return request.sequence is not None and bool(self.states)

    def is_raw(self, request: InferRequest) -> bool:
        """Whether a request brings what inputs of the model are made of."""
        raw = self._raw
        return raw is not None and any(tensor.name == raw.spec.name for tensor in request.inputs)

    def check(self, request: InferRequest) -> tuple[str, ...]:
        """Checks names, datatypes, shapes and raw sizes. State of a sequence may be left out, in and out.

        Elements of the typed form and of BYTES tensors are checked when they are decoded, off the event loop.

        Returns:
            Names of the outputs to send back, in order.

        Raises:
            TensorError: TENSOR_NAME_UNKNOWN, TENSOR_DUPLICATED, TENSOR_MISSING, TENSOR_DATATYPE_UNSUPPORTED,
                TENSOR_DATATYPE_MISMATCH, TENSOR_DIMENSION_INVALID, TENSOR_SHAPE_MISMATCH, TENSOR_BYTES_MISMATCH,
                TENSOR_CONTENT_MISSING, TENSOR_OUTPUT_UNKNOWN or PROCESSED_INPUT_CONFLICT (all INVALID_ARGUMENT).
            ValidationError: PARAMETER_INVALID (INVALID_ARGUMENT): an output can't be written as it is wanted.
        """
        seen: set[str] = set()
        for index, tensor in enumerate(request.inputs):
            spec = self.inputs.get(tensor.name)
            if spec is None:
                raise TensorError(
                    f"the model has no input '{tensor.name}'; its inputs are {_listed(self.inputs)}",
                    entry=catalogue.TENSOR_NAME_UNKNOWN,
                    context={"tensor": tensor.name},
                    field=f"inputs[{index}].name",
                )
            if tensor.name in seen:
                raise _duplicated("input", tensor.name, f"inputs[{index}].name")
            seen.add(tensor.name)
            _check_input(tensor, spec, index)
        kept = self.in_sequence(request)
        required, default = self._required, self._all_outputs
        if kept:
            required, default = self._required_beside_state, self._outputs_beside_state
        elif self._processed is not None and self._raw is not None and self._raw.spec.name in seen:
            self._check_alone(self._raw, request)
            required, default = self._required_beside_raw, self._processed.default
        missing = required - seen
        if missing:
            raise self._missing(next(name for name in self.inputs if name in missing))
        outputs = self._wanted_outputs(request.outputs, default)
        if request.form is not None:
            self._check_form(request.form, outputs)
        return outputs

    def rows_of(self, request: InferRequest) -> int:
        """Rows of a checked request to a model whose first axes count them.

        Raises:
            TensorError: TENSOR_SHAPE_MISMATCH (INVALID_ARGUMENT): its inputs have different numbers of them.
        """
        first: RequestTensor | None = None
        required = self._required_beside_raw if self.is_raw(request) else self._required
        for index, tensor in enumerate(request.inputs):
            if tensor.name not in required or not tensor.shape:
                continue
            if first is None:
                first = tensor
            elif tensor.shape[0] != first.shape[0]:
                raise TensorError(
                    f"input '{tensor.name}' has {tensor.shape[0]} rows and input '{first.name}' {first.shape[0]}; "
                    "the first axis counts the rows of a request and is the same for all inputs",
                    entry=catalogue.TENSOR_SHAPE_MISMATCH,
                    context={"tensor": tensor.name, "expected": first.shape[0], "actual": tensor.shape[0]},
                    field=f"inputs[{index}].shape",
                )
        return first.shape[0] if first is not None else 1

    def all_required(self, request: InferRequest) -> bool:
        """Whether a checked request has no input that it could have left out."""
        required = self._required_beside_raw if self.is_raw(request) else self._required
        return len(request.inputs) == len(required)

    def _check_alone(self, raw: RawInput, request: InferRequest) -> None:
        for index, tensor in enumerate(request.inputs):
            if tensor.name in raw.makes:
                raise TensorError(
                    f"input '{tensor.name}' is made of '{raw.spec.name}', which the request has, too; send one of them",
                    entry=catalogue.PROCESSED_INPUT_CONFLICT,
                    context={"tensor": tensor.name},
                    field=f"inputs[{index}].name",
                )

    def _missing(self, name: str) -> TensorError:
        instead = ""
        if name in self.states:
            instead = "; it may be left out of a request with a sequence_id"
        elif self._raw is not None and name in self._raw.makes:
            instead = f"; it may be left out of a request with '{self._raw.spec.name}', of which it is made"
        return TensorError(
            f"input '{name}' is missing; the model's inputs are {_listed(self.inputs)}{instead}",
            entry=catalogue.TENSOR_MISSING,
            context={"tensor": name},
            field="inputs",
        )

    def _wanted_outputs(self, names: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            return default
        seen: set[str] = set()
        for index, name in enumerate(names):
            if name not in self.outputs:
                raise TensorError(
                    f"the model has no output '{name}'; its outputs are {_listed(self.outputs)}",
                    entry=catalogue.TENSOR_OUTPUT_UNKNOWN,
                    context={"tensor": name},
                    field=f"outputs[{index}].name",
                )
            if name in seen:
                raise _duplicated("output", name, f"outputs[{index}].name")
            seen.add(name)
        return names

    def _check_form(self, form: OutputForm, outputs: tuple[str, ...]) -> None:
        for name in outputs:
            datatype = self.outputs[name].datatype
            if name in form.classes:
                if datatype not in CLASSIFIABLE:
                    raise _unwritable("classification", f"output '{name}' is {datatype}, which has no classes")
            elif form.typed and not DATATYPES[datatype].contents_field:
                raise _unwritable("binary_data", f"output '{name}' is {datatype}, which travels only as raw bytes")


def _check_input(tensor: RequestTensor, spec: TensorSpec, index: int) -> None:
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise TensorError(
            f"input '{tensor.name}' has the datatype '{tensor.datatype}', which is none of {_listed(DATATYPES)}",
            entry=catalogue.TENSOR_DATATYPE_UNSUPPORTED,
            context={"tensor": tensor.name, "datatype": tensor.datatype},
            field=f"inputs[{index}].datatype",
        )
    if tensor.datatype != spec.datatype:
        raise TensorError(
            f"input '{tensor.name}' has the datatype {tensor.datatype}, the model takes {spec.datatype}",
            entry=catalogue.TENSOR_DATATYPE_MISMATCH,
            context={"tensor": tensor.name, "expected": spec.datatype, "actual": tensor.datatype},
            field=f"inputs[{index}].datatype",
        )
    elements = count_elements(tensor, index)
    if len(tensor.shape) != len(spec.shape) or any(
        want not in (-1, have) for have, want in zip(tensor.shape, spec.shape, strict=True)
    ):
        raise TensorError(
            f"input '{tensor.name}' has the shape {list(tensor.shape)}, the model takes {list(spec.shape)}"
            + (" (-1 is any size)" if -1 in spec.shape else ""),
            entry=catalogue.TENSOR_SHAPE_MISMATCH,
            context={"tensor": tensor.name, "expected": str(list(spec.shape)), "actual": str(list(tensor.shape))},
            field=f"inputs[{index}].shape",
        )
    _check_content(tensor, datatype, elements, index)


def _check_content(tensor: RequestTensor, datatype: Datatype, elements: int, index: int) -> None:
    if tensor.raw is not None:
        size = len(tensor.raw)
        # An element of BYTES takes at least its length prefix.
        least = elements * (datatype.item_bytes or 4)
        if size < least or (datatype.item_bytes and size > least):
            raise TensorError(
                f"input '{tensor.name}' has {size} bytes, {datatype.name} of shape {list(tensor.shape)} takes "
                + (f"{least}" if datatype.item_bytes else f"at least {least}"),
                entry=catalogue.TENSOR_BYTES_MISMATCH,
                context={"tensor": tensor.name, "expected": least, "actual": size},
                field=f"raw_input_contents[{index}]",
            )
    elif not datatype.contents_field:
        raise TensorError(
            f"input '{tensor.name}' is {datatype.name}, which travels only in raw_input_contents",
            entry=catalogue.TENSOR_CONTENT_TYPE_MISMATCH if tensor.contents else catalogue.TENSOR_CONTENT_MISSING,
            context={"tensor": tensor.name, "datatype": datatype.name},
            field=f"inputs[{index}].contents",
        )
    elif elements and not any(tensor.contents):
        raise TensorError(
            f"input '{tensor.name}' has no content, neither contents nor raw_input_contents",
            entry=catalogue.TENSOR_CONTENT_MISSING,
            context={"tensor": tensor.name},
            field=f"inputs[{index}].contents",
        )


def count_elements(tensor: RequestTensor, index: int) -> int:
    """Product of the dimensions, 1 for a scalar.

    Raises:
        TensorError: TENSOR_DIMENSION_INVALID (INVALID_ARGUMENT): a negative dimension, or dimensions whose product
            (zeros aside) is beyond any memory.
    """
    product = 1
    for size in tensor.shape:
        if size < 0:
            raise _dimension_error(tensor, index, size, "is negative")
        product *= size or 1
        if product > _ELEMENTS_MAX:
            raise _dimension_error(tensor, index, size, f"makes more than {_ELEMENTS_MAX} elements")
    return 0 if 0 in tensor.shape else product


def _dimension_error(tensor: RequestTensor, index: int, size: int, complaint: str) -> TensorError:
    return TensorError(
        f"input '{tensor.name}' has the shape {list(tensor.shape)}, whose dimension {size} {complaint}",
        entry=catalogue.TENSOR_DIMENSION_INVALID,
        context={"tensor": tensor.name, "dimension": size},
        field=f"inputs[{index}].shape",
    )


def _duplicated(kind: str, name: str, field: str) -> TensorError:
    return TensorError(
        f"{kind} '{name}' is named twice",
        entry=catalogue.TENSOR_DUPLICATED,
        context={"tensor": name},
        field=field,
    )


def _unwritable(parameter: str, complaint: str) -> ValidationError:
    return ValidationError(
        f"{complaint}: leave the parameter '{parameter}' out",
        entry=catalogue.PARAMETER_INVALID,
        context={"parameter": parameter},
        field="outputs",
    )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(f"'{name}'" for name in listed[:16]) + (", …" if len(listed) > 16 else "")
