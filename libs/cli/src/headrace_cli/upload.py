"""Uploading a model file: digest first, then header and chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import yaml
from google.protobuf.json_format import ParseDict, ParseError

from headrace.registry.v1 import manifest_pb2, models_pb2, models_pb2_grpc
from headrace_cli.connection import Connection
from headrace_common.errors import ValidationError

CHUNK_BYTES = 1 << 20
_BYTES_PER_S_MIN = 1 << 20
# Time for checks and for reading the manifest off the artefact, after the last byte.
_CHECK_S = 120.0


def file_sha256(path: Path, progress: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a file in lower-case hexadecimal; `progress` hears the bytes of each step."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            progress(len(chunk))
    return digest.hexdigest()


def read_manifest(path: Path) -> manifest_pb2.Manifest:
    """Read a `model.yaml`.

    Raises:
        ValidationError: it is not YAML, or not a manifest.
    """
    try:
        content: object = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise ValidationError(f"{path} can't be read as YAML") from None
    if not isinstance(content, dict):
        raise ValidationError(f"{path} is not a manifest: it must hold a mapping of fields")
    try:
        return ParseDict(cast("dict[str, Any]", content), manifest_pb2.Manifest())
    except ParseError as error:
        raise ValidationError(f"{path} is not a manifest: {error}") from None


def upload_version(
    connection: Connection,
    *,
    model: str,
    file: Path,
    sha256: str,
    version: int = 0,
    manifest: manifest_pb2.Manifest | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> models_pb2.Version:
    """Store a file as a version of a model; repeating it with the same version, bytes and manifest changes nothing.

    Raises:
        HeadraceError: the registry refused it.
        UnreachableError: nobody answers.
    """
    size_bytes = file.stat().st_size
    header = models_pb2.UploadHeader(
        model=model,
        version=version,
        size_bytes=size_bytes,
        sha256=sha256,
        file_name=file.name,
        manifest=manifest,
    )

    def messages() -> Iterator[models_pb2.UploadVersionRequest]:
        yield models_pb2.UploadVersionRequest(header=header)
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                yield models_pb2.UploadVersionRequest(chunk=chunk)
                progress(len(chunk))

    stub = models_pb2_grpc.ModelServiceStub(connection.channel)
    answer = connection.call(stub.UploadVersion, messages(), timeout_s=_CHECK_S + size_bytes / _BYTES_PER_S_MIN)
    return answer.version
