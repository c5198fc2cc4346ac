"""Samples of a mesh: registered once, and not sent again while they are what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headrace_cli.mesh.sample_models import SampleModels
from headrace_cli.samples import available_samples
from headrace_client import AsyncClient
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2
from support.mesh import Mesh
from support.soak import scrape


def _uploads(mesh: Mesh) -> float:
    (registry,) = mesh.named("registry")
    return scrape(str(registry.metrics))['headrace_registry_uploads_total{outcome="OK"}']


async def test_a_mesh_that_has_the_samples_gets_no_byte_of_them_again(mesh: Mesh) -> None:
    samples = available_samples()
    assert [sample.name for sample in samples if sample.large] == ["smollm2", "smollm2-embed"]
    before = _uploads(mesh)
    async with AsyncClient(mesh.grpc, api_key=mesh.api_key) as client:
        assert await SampleModels(client=client).register(samples) == {sample.name: 1 for sample in samples}
        generates = (await client.models.version("smollm2")).manifest
        embeds = (await client.models.version("smollm2-embed")).manifest
    assert _uploads(mesh) == before
    assert (generates.task, embeds.task) == (manifest_pb2.MODEL_TASK_GENERATE, manifest_pb2.MODEL_TASK_EMBED)
    assert generates.metadata["quantisation"] == "Q4_1"


async def test_a_sample_with_another_manifest_is_another_version(mesh: Mesh, tmp_path: Path) -> None:
    (magika,) = (sample for sample in available_samples() if sample.name == "magika")
    manifest = tmp_path / "model.yaml"
    manifest.write_text(magika.manifest_path.read_text())
    sample = replace(magika, name="copy-of-magika", manifest_path=manifest)
    async with AsyncClient(mesh.grpc, api_key=mesh.api_key) as client:
        assert await SampleModels(client=client).register([sample]) == {"copy-of-magika": 1}
        assert await SampleModels(client=client).register([sample]) == {"copy-of-magika": 1}
        manifest.write_text(manifest.read_text() + "# changed\n")
        assert await SampleModels(client=client).register([sample]) == {"copy-of-magika": 2}
