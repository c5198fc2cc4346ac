"""The binary tensors of Open Inference REST: JSON first, then the bytes of tensors, one after another.

`Inference-Header-Content-Length` says where the JSON ends, `binary_data_size` how many of the bytes behind it are a
tensor's, in the order in which the JSON names them.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace_client import failures
from headrace_client.errors import TensorError, ValidationError

LENGTH_HEADER = "Inference-Header-Content-Length"
_DIGITS_MAX = 12


class BinaryParts:
    """What comes behind the JSON of a body; taken tensor by tensor.

    Args:
        content: The bytes.
    """

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._taken = 0

    def take(self, size: object, *, tensor: str, field: str) -> bytes:
        """The next tensor's bytes.

        Args:
            size: Its `binary_data_size`.
            tensor: Its name.
            field: Path of the size, for failures.

        Raises:
            TensorError: it is no size, or there are fewer bytes.
        """
        left = len(self._content) - self._taken
        if type(size) is not int or not 0 <= size <= left:
            raise TensorError(
                f"tensor '{tensor}': binary_data_size must be the number of its bytes behind the JSON, where "
                f"{left} are left",
                failures.TENSOR_BYTES_MISMATCH,
                context={"tensor": tensor},
                field=field,
            )
        start, self._taken = self._taken, self._taken + size
        return bytes(self._content[start : self._taken])

    def finish(self) -> None:
        """To be called when all tensors are read.

        Raises:
            TensorError: bytes are left over.
        """
        left = len(self._content) - self._taken
        if left:
            raise TensorError(
                f"{left} bytes behind the JSON belong to no tensor: inputs name theirs by binary_data_size",
                failures.TENSOR_BYTES_MISMATCH,
                field="inputs",
            )


def split(body: bytes, length: str | None) -> tuple[bytes | memoryview, BinaryParts]:
    """The JSON of a body, and what comes behind it.

    Args:
        body: The whole body, inflated.
        length: The header `Inference-Header-Content-Length`; None where there is none.

    Raises:
        ValidationError: the header is no length of a part of the body.
    """
    whole = memoryview(body)
    if length is None:
        return body, BinaryParts(whole[len(whole) :])
    text = length.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX and 0 < int(text) <= len(body)):
        raise ValidationError(
            f"{LENGTH_HEADER} must be the number of bytes of the JSON in front, 1 to {len(body)} here",
            failures.REQUEST_MALFORMED,
            field=LENGTH_HEADER,
        )
    return whole[: int(text)], BinaryParts(whole[int(text) :])


def joined(document: bytes, tensors: Sequence[bytes]) -> tuple[bytes, int | None]:
    """A body of JSON and the bytes of tensors, and the length of the JSON for the header; None without such bytes."""
    if not tensors:
        return document, None
    return b"".join((document, *tensors)), len(document)
