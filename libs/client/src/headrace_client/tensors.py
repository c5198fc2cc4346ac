"""Between numpy and raw tensors of the Open Inference Protocol.

On the way out one copy is made, which also puts non-contiguous and big-endian arrays in order. On the way in arrays are
read-only views of the received bytes; BYTES elements are `bytes` objects and BF16 is widened to float32, which holds
each of its values exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headrace_client import byte_elements, failures
from headrace_client.datatypes import ALL, BF16, BYTES, DTYPES, datatype_of, is_bfloat16, is_text
from headrace_client.errors import TensorError
from headrace_client.failures import Failure


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Values with the datatype that they shall have, for lists of numbers and for BF16.

    Numbers are converted: they must fit the datatype, fractions are rounded to the nearest that it has and never become
    whole numbers or infinite. A uint16 array as BF16 is taken for the bits of its values.

    Attributes:
        values: An array, or what numpy makes one of.
        datatype: BOOL, INT8 to INT64, UINT8 to UINT64, FP16, FP32, FP64, BF16 or BYTES.
    """

    values: ArrayLike
    datatype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTensor:
    """One tensor as it travels."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def encode(name: str, value: ArrayLike | Tensor) -> RawTensor:
    """A tensor's bytes. The datatype follows from the array's type unless `value` is a `Tensor`.

    Raises:
        TensorError: the values have no datatype, are not of the wanted one, or their rows have different lengths.
    """
    values, datatype = (value.values, value.datatype) if isinstance(value, Tensor) else (value, None)
    array = _as_array(name, values)
    if datatype is None:
        datatype = datatype_of(array.dtype)
        if datatype is None:
            raise _refused(
                name,
                f"numpy's {array.dtype} has no counterpart in the protocol",
                failures.TENSOR_DATATYPE_UNSUPPORTED,
            )
    elif datatype not in ALL:
        raise _refused(
            name, f"there is no datatype {datatype}, only {', '.join(ALL)}", failures.TENSOR_DATATYPE_UNSUPPORTED
        )
    if datatype == BYTES:
        raw = _text_bytes(name, array)
    elif datatype == BF16:
        raw = _bfloat16_bytes(name, array)
    else:
        raw = _converted(name, array, datatype).tobytes()
    return RawTensor(name=name, datatype=datatype, shape=array.shape, raw=raw)


def text_tensor(name: str, texts: Sequence[str]) -> Tensor:
    """A list of texts as a tensor of one axis.

    Raises:
        TensorError: it is something else.
    """
    elements: Any = texts
    if isinstance(elements, str) or not all(isinstance(element, str) for element in elements):
        raise _refused(name, "a list of texts is needed", failures.TENSOR_DATATYPE_MISMATCH)
    return Tensor(list(texts), BYTES)


def decode(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> NDArray[Any]:
    """The array of a received tensor.

    Raises:
        TensorError: the datatype is unknown, or the bytes don't fit the shape.
    """
    try:
        if datatype == BYTES:
            return byte_elements.unpacked(raw).reshape(shape)
        if datatype == BF16:
            bits = np.frombuffer(raw, "<u2").astype("<u4") << 16
            return bits.view("<f4").reshape(shape)
        return np.frombuffer(raw, DTYPES[datatype]).reshape(shape)
    except KeyError:
        raise _refused(
            name, f"the mesh sent the unknown datatype {datatype}", failures.TENSOR_DATATYPE_UNSUPPORTED
        ) from None
    except ValueError:
        raise _refused(
            name, f"the {len(raw)} bytes that came are not of shape {tuple(shape)}", failures.TENSOR_BYTES_MISMATCH
        ) from None


def _as_array(name: str, values: ArrayLike) -> NDArray[Any]:
    if isinstance(values, np.ma.MaskedArray):
        raise _refused(name, "a masked array can't be sent; fill it first", failures.TENSOR_ELEMENT_INVALID)
    try:
        array: NDArray[Any] = np.asarray(values)
    except UnicodeDecodeError:
        # Of texts and bytes in one list numpy makes texts, by ASCII.
        return np.asarray(values, dtype=object)
    except ValueError:
        raise _refused(name, "the rows have different lengths", failures.TENSOR_SHAPE_MISMATCH) from None
    if is_text(array.dtype) and not isinstance(values, np.ndarray):
        # numpy's own texts end at their last character that is not NUL; objects stay as they are.
        return np.asarray(values, dtype=object)
    return array


def _text_bytes(name: str, array: NDArray[Any]) -> bytes:
    if array.size and not (is_text(array.dtype) or array.dtype == object):
        raise _refused(name, f"BYTES needs texts or bytes, not {array.dtype}", failures.TENSOR_DATATYPE_MISMATCH)
    try:
        return byte_elements.packed(cast("list[object]", array.ravel().tolist()))
    except TypeError as error:
        raise _refused(
            name,
            f"an object array may hold texts and bytes only, not {error}; make it an array of numbers, "
            "or check that all rows have the same length",
            failures.TENSOR_ELEMENT_INVALID,
        ) from None
    except ValueError:
        raise _refused(name, "an element can't be encoded as UTF-8", failures.TENSOR_STRING_MALFORMED) from None


def _bfloat16_bytes(name: str, array: NDArray[Any]) -> bytes:
    if is_bfloat16(array.dtype):
        return array.view(np.dtype(np.uint16).newbyteorder(array.dtype.byteorder)).astype("<u2").tobytes()
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return array.astype("<u2", copy=False).tobytes()
    # tobytes and frombuffer rather than a view: it needs no axis, and puts the elements in order.
    bits = np.frombuffer(_converted(name, array, "FP32").tobytes(), "<u4")
    # To the nearest, ties to even, as hardware rounds. A NaN stays one: its lower half could round it to infinity.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = np.where(is_nan, (bits >> 16) | 0x40, rounded)
    _check_finite(name, (rounded << 16).astype("<u4").view("<f4"), BF16, array.ravel())
    return rounded.astype("<u2").tobytes()


def _converted(name: str, array: NDArray[Any], datatype: str) -> NDArray[Any]:
    wanted = DTYPES[datatype]
    if (array.dtype.kind, array.dtype.itemsize) == (wanted.kind, wanted.itemsize):
        return array.astype(wanted, copy=False)
    if array.dtype.kind not in "biuf":
        raise _refused(name, f"{datatype} needs numbers, not {array.dtype}", failures.TENSOR_DATATYPE_MISMATCH)
    if array.size:
        _check_fit(name, array, datatype)
    with np.errstate(over="ignore"):
        converted = array.astype(wanted)
    if wanted.kind == "f":
        _check_finite(name, converted, datatype, array)
    return converted


def _check_finite(name: str, converted: NDArray[Any], datatype: str, array: NDArray[Any]) -> None:
    """Refuses values that became infinite; those that were so before may be."""
    if np.count_nonzero(np.isinf(converted)) != np.count_nonzero(np.isinf(array)):
        raise _refused(name, f"a value is too large for {datatype}", failures.TENSOR_ELEMENT_INVALID)


def _check_fit(name: str, array: NDArray[Any], datatype: str) -> None:
    wanted = DTYPES[datatype]
    if array.dtype.kind == "f" and wanted.kind != "f":
        raise _refused(
            name, f"fractions don't fit {datatype}; round the array first", failures.TENSOR_DATATYPE_MISMATCH
        )
    if (array.dtype.kind == "b") is not (wanted.kind == "b"):
        raise _refused(name, f"booleans and numbers don't mix with {datatype}", failures.TENSOR_DATATYPE_MISMATCH)
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise _refused(name, f"{datatype} holds {limits.min} to {limits.max} only", failures.TENSOR_ELEMENT_INVALID)


def _refused(name: str, why: str, failure: Failure) -> TensorError:
    return TensorError(f"tensor '{name}': {why}", failure, context={"tensor": name}, field=name)
