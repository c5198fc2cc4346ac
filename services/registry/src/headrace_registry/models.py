"""Models, versions and the contents of their files, as the service speaks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common import catalogue
from headrace_common.errors import ModelError


class VersionState(StrEnum):
    """The life of a version; ARCHIVED is final."""

    READY = "READY"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDraft:
    """A model to create. `metadata` has at most 64 pairs."""

    tenant_id: str
    name: str
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A stored model; `latest_version` is the highest that is READY, 0 for none."""

    tenant_id: str
    name: str
    description: str
    metadata: Mapping[str, str]
    create_time: datetime
    latest_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of a content. `sha256` are the 32 bytes of its digest, which name it in the object store."""

    sha256: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The bytes of a file as an ordered list of segments, all of `segment_bytes` but the last."""

    sha256: bytes
    size_bytes: int
    segment_bytes: int
    segments: Sequence[Segment]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFile:
    """One file of a version: a relative path and the digest of its content in hexadecimal."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFile:
    """One file of a version to be: where it lies inside the artefact, and its content."""

    path: str
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDraft:
    """A version whose bytes are stored and checked.

    Attributes:
        version: The wanted number; 0 means the latest READY version if it is the same, else the next free number.
        uid: A new UUID; unused where the version turns out to exist.
        manifest: The whole manifest.
        stated_manifest: What the uploader stated of it, serialised deterministically.
        files: The model's file, then the others; no path twice.
    """

    tenant_id: str
    model: str
    version: int
    uid: str
    manifest: Manifest
    stated_manifest: bytes
    files: Sequence[DraftFile]

    def same_as(self, version: Version) -> bool:
        """Whether a registered version has the same bytes and was stated in the same way."""
        stated = {(file.path, file.sha256, file.size_bytes) for file in version.files}
        mine = {(file.path, file.content.sha256.hex(), file.content.size_bytes) for file in self.files}
        return stated == mine and self.stated_manifest == version.stated_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A registered version, its files ordered by path; only `state` and `archive_time` ever change."""

    tenant_id: str
    model: str
    version: int
    uid: str
    state: VersionState
    manifest: Manifest
    stated_manifest: bytes
    files: Sequence[VersionFile]
    create_time: datetime
    archive_time: datetime | None


def model_not_found(name: str) -> ModelError:
    """The same for a model that doesn't exist and for one of another tenant."""
    return ModelError(f"model '{name}' was not found", entry=catalogue.MODEL_NOT_FOUND, context={"model": name})


def version_not_found(model: str, version: int) -> ModelError:
    """The model exists, but not this version; 0 stands for "the latest that is ready"."""
    message = (
        f"model '{model}' has no version {version}" if version else f"model '{model}' has no version that is ready"
    )
    return ModelError(
        message, entry=catalogue.MODEL_VERSION_NOT_FOUND, context={"model": model, "version": version or "latest"}
    )


def version_conflict(model: str, version: int) -> ModelError:
    """The number is taken by other bytes or another manifest."""
    return ModelError(
        f"version {version} of model '{model}' exists with other bytes or another manifest; versions never change",
        entry=catalogue.MODEL_VERSION_CONFLICT,
        context={"model": model, "version": version},
    )


def model_conflict(name: str) -> ModelError:
    """The name is taken by a model with other fields."""
    return ModelError(
        f"model '{name}' exists with another description or other metadata",
        entry=catalogue.MODEL_ALREADY_EXISTS,
        context={"model": name},
    )
