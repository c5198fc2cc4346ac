"""Puts the sample models into a new mesh, without sending what it has already."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path

from headrace_cli.samples import Sample
from headrace_client import AsyncClient, HeadraceError
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.manifests import read_manifest

_MANIFEST_KEY = "sample_manifest_sha256"


class SampleModels:
    """Registers samples, each under its own name."""

    def __init__(self, *, client: AsyncClient) -> None:
        self._client = client
        self._digests: dict[Path, str] = {}

    async def register(self, samples: Iterable[Sample]) -> dict[str, int]:
        """Versions by the samples' names.

        Raises:
            HeadraceError: the mesh refuses one, or doesn't answer.
        """
        return {sample.name: await self._version(sample) for sample in samples}

    async def _version(self, sample: Sample) -> int:
        """A manifest that is stored says more than what was stated; so its digest is kept in it, to be compared."""
        manifest = read_manifest(sample.manifest_path)
        manifest.metadata[_MANIFEST_KEY] = await self._digest(sample.manifest_path)
        newest = await self._newest(sample.name)
        if newest is not None and newest.manifest.metadata.get(_MANIFEST_KEY) == manifest.metadata[_MANIFEST_KEY]:
            digest = await self._digest(sample.model_path)
            if [file.sha256 for file in newest.files] == [digest]:
                return newest.version
        return (await self._client.models.push(sample.model_path, name=sample.name, manifest=manifest)).version

    async def _newest(self, name: str) -> models_pb2.Version | None:
        try:
            return await self._client.models.version(name)
        except HeadraceError as error:
            if error.reason in ("MODEL_NOT_FOUND", "MODEL_VERSION_NOT_FOUND"):
                return None
            raise

    async def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = await asyncio.to_thread(_sha256, path)
        return self._digests[path]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
