"""Manifests as people have them: messages, mappings, files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from google.protobuf.json_format import ParseDict, ParseError

from headrace_client import failures
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2
from headrace_client.errors import ModelError
from headrace_client.private_pool import POOL


def read_manifest(source: manifest_pb2.Manifest | Mapping[str, Any] | Path) -> manifest_pb2.Manifest:
    """The message itself, or one of the fields in a mapping, a `.json` file, or a `.yaml` file (needs PyYAML).

    Raises:
        ModelError: it is no manifest.
        OSError: the file can't be read.
    """
    if isinstance(source, manifest_pb2.Manifest):
        return source
    origin = "the mapping"
    if isinstance(source, Path):
        origin, source = str(source), _mapping(source)
    try:
        return ParseDict(dict(source), manifest_pb2.Manifest(), descriptor_pool=POOL)
    except ParseError as error:
        raise _no_manifest(origin, str(error)) from None


def _mapping(path: Path) -> Mapping[str, Any]:
    text = path.read_text(errors="replace")
    content: object
    if path.suffix == ".json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise _no_manifest(str(path), str(error)) from None
    else:
        try:
            import yaml
        except ImportError:
            raise _no_manifest(str(path), "reading YAML needs the package PyYAML; or use JSON") from None
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise _no_manifest(str(path), str(error)) from None
    if not isinstance(content, dict):
        raise _no_manifest(str(path), "it must hold a mapping of fields")
    return cast("dict[str, Any]", content)


def _no_manifest(origin: str, why: str) -> ModelError:
    return ModelError(f"{origin} is not a manifest: {why}", failures.MODEL_MANIFEST_INVALID)
