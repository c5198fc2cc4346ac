"""Registers the sample models through the gateway's public API, like any client would."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace_cli.connection import Connection
from headrace_cli.samples import Sample
from headrace_cli.upload import file_sha256, read_manifest, upload_version
from headrace_common.catalogue import MODEL_NOT_FOUND
from headrace_common.errors import HeadraceError


@dataclass(frozen=True, kw_only=True)
class RegisteredSample:
    """A sample and the version that serves it."""

    sample: Sample
    version: int
    # False when an earlier start of the mesh registered it.
    fresh: bool


def register_sample(connection: Connection, sample: Sample) -> RegisteredSample:
    """Register a sample unless its latest version already holds the same bytes; a newer file becomes a new version.

    Raises:
        HeadraceError: the registry refused it.
        UnreachableError: the gateway does not answer.
    """
    sha256 = file_sha256(sample.model_path)
    latest = _latest(connection, sample.name)
    if latest is not None and [file.sha256 for file in latest.files] == [sha256]:
        return RegisteredSample(sample=sample, version=latest.version, fresh=False)
    manifest = read_manifest(sample.manifest_path)
    version = upload_version(connection, model=sample.name, file=sample.model_path, sha256=sha256, manifest=manifest)
    return RegisteredSample(sample=sample, version=version.version, fresh=True)


def _latest(connection: Connection, model: str) -> models_pb2.Version | None:
    stub = models_pb2_grpc.ModelServiceStub(connection.channel)
    try:
        return connection.call(stub.GetVersion, models_pb2.GetVersionRequest(model=model)).version
    except HeadraceError as error:
        # A model without a READY version is answered as absent, too.
        if error.entry.grpc == MODEL_NOT_FOUND.grpc:
            return None
        raise
