"""What format a file has, by its first bytes and never by its name. Pure."""

from __future__ import annotations

from headrace.registry.v1.manifest_pb2 import ARTIFACT_FORMAT_GGUF, ARTIFACT_FORMAT_ONNX, ArtifactFormat
from headrace_common import catalogue, gguf
from headrace_common.errors import ModelError

HEAD_BYTES = 16
"""How many first bytes are enough to tell."""

DEFAULT_BACKENDS = {ARTIFACT_FORMAT_ONNX: "onnxruntime", ARTIFACT_FORMAT_GGUF: "llamacpp"}
FILE_NAMES = {ARTIFACT_FORMAT_ONNX: "model.onnx", ARTIFACT_FORMAT_GGUF: "model.gguf"}

_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (4, b"TFL3", "TensorFlow Lite"),
    (4, b"ORTM", "ORT"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 (Keras)"),
    (0, b"PK\x03\x04", "ZIP (PyTorch, Keras or NumPy)"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x93NUMPY", "NumPy"),
    (0, b"\x80\x02", "pickle"),
    (0, b"\x80\x03", "pickle"),
    (0, b"\x80\x04", "pickle"),
    (0, b"\x80\x05", "pickle"),
    (0, b"\x7fELF", "ELF"),
    (0, b"MZ", "Windows executable"),
)


def recognise(head: bytes) -> ArtifactFormat.ValueType:
    """The format that a file claims to have; ONNX, which has no signature, is what remains.

    Whether it really is what it claims to be is found out later, in a process of its own.

    Args:
        head: The first 16 bytes, or fewer where the file ends.

    Raises:
        ModelError: MODEL_FORMAT_UNSUPPORTED (INVALID_ARGUMENT): a known format that isn't served.
    """
    if head.startswith(gguf.MAGIC):
        return ARTIFACT_FORMAT_GGUF
    for offset, signature, name in _FOREIGN:
        if head[offset : offset + len(signature)] == signature:
            raise unsupported(name, f"the file is in the format {name}, which is not served; upload ONNX or GGUF")
    # safetensors: the length of a JSON header in 8 bytes, then the header.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        raise unsupported(
            "safetensors", "the file is in the format safetensors, which is not served; upload ONNX or GGUF"
        )
    return ARTIFACT_FORMAT_ONNX


def unsupported(name: str, message: str, *, field: str | None = None) -> ModelError:
    """MODEL_FORMAT_UNSUPPORTED."""
    return ModelError(message, entry=catalogue.MODEL_FORMAT_UNSUPPORTED, context={"format": name}, field=field)
