"""A model goes in, is understood, and comes out again, byte for byte."""

from __future__ import annotations

import hashlib

import pytest

from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.manifest_pb2 import ARTIFACT_FORMAT_ONNX, Manifest, TensorSpec
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError
from support import onnx_models
from support.registry import ACME, GLOBEX, RegistryClient, RunningRegistry, chunks, header, member_of


async def test_uploaded_version_is_ready_and_described(client: RegistryClient) -> None:
    content = onnx_models.tiny()
    version = await client.upload(content, model="tiny")
    assert (version.model, version.version, version.state) == ("tiny", 1, pb.VERSION_STATE_READY)
    assert version.size_bytes == len(content)
    assert [(f.path, f.size_bytes, f.sha256) for f in version.files] == [
        ("model.onnx", len(content), hashlib.sha256(content).hexdigest())
    ]
    manifest = version.manifest
    assert (manifest.format, manifest.backend, manifest.batched) == (ARTIFACT_FORMAT_ONNX, "onnxruntime", True)
    assert list(manifest.inputs) == [TensorSpec(name="x", datatype="FP32", shape=[-1, 16])]
    assert list(manifest.outputs) == [TensorSpec(name="z", datatype="FP32", shape=[-1, 16])]
    response: pb.GetVersionResponse = await client.call(ACME, pb.GetVersionRequest(model="tiny"))
    assert response.version == version
    model: pb.GetModelResponse = await client.call(ACME, pb.GetModelRequest(name="tiny"))
    assert model.model.latest_version == 1


@pytest.mark.parametrize("datatype", sorted(onnx_models.ELEMENT_TYPES))
async def test_every_datatype_is_inferred(client: RegistryClient, datatype: str) -> None:
    version = await client.upload(onnx_models.identity(datatype), model=datatype.lower())
    assert [tensor.datatype for tensor in (*version.manifest.inputs, *version.manifest.outputs)] == [datatype] * 2


async def test_state_on_another_axis_is_not_taken_for_a_batch(client: RegistryClient) -> None:
    version = await client.upload(onnx_models.state_on_second_axis())
    assert version.manifest.HasField("batched")
    assert not version.manifest.batched


async def test_stated_manifest_overrides_field_by_field(client: RegistryClient) -> None:
    stated = Manifest(inputs=[TensorSpec(name="x", shape=[8, 16])], description="a layer", class_labels=["a", "b"])
    stated.execution.instances = 2
    manifest = (await client.upload(onnx_models.tiny(), manifest=stated)).manifest
    assert list(manifest.inputs) == [TensorSpec(name="x", datatype="FP32", shape=[8, 16])]
    assert list(manifest.outputs) == [TensorSpec(name="z", datatype="FP32", shape=[-1, 16])]
    assert (manifest.description, list(manifest.class_labels)) == ("a layer", ["a", "b"])
    assert manifest.execution.instances == 2
    assert not manifest.batched


async def test_large_model_is_cut_into_segments_and_comes_back_whole(registry: RunningRegistry) -> None:
    content = onnx_models.weighty(9 << 20)
    version = await registry.client.upload(content)
    assert len(registry.stored_objects()) == 3
    file, received = await registry.client.download(ACME, pb.DownloadVersionRequest(model="m"))
    assert file == version.files[0]
    assert received == content
    assert registry.spooled_files() == []


@pytest.mark.parametrize("offset", [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (5 << 20) + 100])
async def test_download_goes_on_from_an_offset(client: RegistryClient, offset: int) -> None:
    content = onnx_models.weighty(5 << 20)
    await client.upload(content)
    offset = min(offset, len(content))
    file, received = await client.download(ACME, pb.DownloadVersionRequest(model="m", offset=offset))
    assert file.size_bytes == len(content)
    assert received == content[offset:]


@pytest.mark.parametrize("offset", [-1, 1 << 40])
async def test_offset_outside_of_the_file_is_refused(client: RegistryClient, offset: int) -> None:
    await client.upload(onnx_models.tiny())
    with pytest.raises(HeadraceError) as failure:
        await client.download(ACME, pb.DownloadVersionRequest(model="m", offset=offset))
    assert (failure.value.entry, failure.value.field) == (catalogue.FIELD_INVALID, "offset")


async def test_file_that_the_version_does_not_have_is_not_found(client: RegistryClient) -> None:
    await client.upload(onnx_models.tiny())
    with pytest.raises(ModelError) as failure:
        await client.download(ACME, pb.DownloadVersionRequest(model="m", path="other.onnx"))
    assert failure.value.entry == catalogue.MODEL_FILE_NOT_FOUND


async def test_equal_bytes_are_stored_once_per_tenant(registry: RunningRegistry) -> None:
    content = onnx_models.tiny()
    for model in ("a", "b"):
        await registry.client.upload(content, model=model)
    assert len(registry.stored_objects()) == 1
    await registry.client.upload(content, principal=GLOBEX)
    assert len(registry.stored_objects()) == 2


async def test_file_name_of_the_upload_is_kept(client: RegistryClient) -> None:
    content = onnx_models.tiny()
    version = await client.send(ACME, [header(content, file_name="layer-1.onnx"), *chunks(content)])
    assert [file.path for file in version.files] == ["layer-1.onnx"]


async def test_extra_files_are_kept_beside_the_model(registry: RunningRegistry) -> None:
    contents = {"model.onnx": onnx_models.tiny(), "a.json": bytes(5 << 20), "tokenizer.json": b"{}"}
    extras = [
        pb.ArtifactFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in contents.items()
        if path != "model.onnx"
    ]
    messages = [header(contents["model.onnx"], extra_files=extras), *chunks(b"".join(contents.values()))]
    version = await registry.client.send(ACME, messages)
    assert [file.path for file in version.files] == sorted(contents)
    assert version.size_bytes == sum(map(len, contents.values()))
    assert list(version.manifest.inputs) == [TensorSpec(name="x", datatype="FP32", shape=[-1, 16])]
    for path, content in contents.items():
        _, received = await registry.client.download(ACME, pb.DownloadVersionRequest(model="m", path=path))
        assert received == content
        assert await registry.client.read(registry.client.ticket(version), path) == content
    assert await registry.client.send(ACME, messages) == version
    assert registry.spooled_files() == []


async def test_corrupt_object_is_never_sent_and_the_next_upload_heals_it(registry: RunningRegistry) -> None:
    content = onnx_models.tiny()
    version = await registry.client.upload(content)
    (stored,) = registry.stored_objects()
    damaged = bytearray(stored.read_bytes())
    damaged[100] ^= 1
    stored.write_bytes(damaged)
    with pytest.raises(HeadraceError) as failure:
        await registry.client.download(ACME, pb.DownloadVersionRequest(model="m"))
    assert failure.value.entry == catalogue.OBJECT_CORRUPT
    assert await registry.client.upload(content, version=version.version) == version
    assert (await registry.client.download(ACME, pb.DownloadVersionRequest(model="m")))[1] == content


async def test_viewer_reads_and_may_not_write(client: RegistryClient) -> None:
    viewer = member_of("acme", "viewer")
    content = onnx_models.tiny()
    await client.upload(content)
    await client.call(viewer, pb.GetVersionRequest(model="m"))
    assert (await client.download(viewer, pb.DownloadVersionRequest(model="m")))[1] == content
    for attempt in (
        client.call(viewer, pb.CreateModelRequest(name="n")),
        client.call(viewer, pb.ArchiveVersionRequest(model="m", version=1)),
        client.upload(content, principal=viewer),
    ):
        with pytest.raises(HeadraceError) as failure:
            await attempt
        assert failure.value.entry == catalogue.ROLE_FORBIDDEN
