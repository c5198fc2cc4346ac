"""Whatever is wrong with an upload has a code of its own, and leaves nothing that anybody could see."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.manifest_pb2 import LanguagePolicy, Manifest, TensorSpec
from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry
from headrace_common.errors import HeadraceError
from support import onnx_models
from support.gguf_files import gguf, toy_values
from support.postgres import fresh_database
from support.quota import Keys
from support.registry import ACME, RunningRegistry, chunks, header, running_registry

MODEL = onnx_models.tiny()
OTHER_DIGEST = hashlib.sha256(b"other").hexdigest()


def upload(content: bytes, **fields: Any) -> list[Message]:
    return [header(content, **fields), *chunks(content)]


Case = tuple[Sequence[Message], CatalogueEntry, str | None]

CASES: dict[str, Case] = {
    "wrong digest": (upload(MODEL, sha256=OTHER_DIGEST), catalogue.MODEL_FILE_DIGEST_MISMATCH, "header.sha256"),
    "truncated": (
        [header(MODEL), *chunks(MODEL[:-1])],
        catalogue.MODEL_FILE_SIZE_MISMATCH,
        "header.size_bytes",
    ),
    "no byte at all": ([header(MODEL)], catalogue.MODEL_FILE_SIZE_MISMATCH, "header.size_bytes"),
    "too long": ([header(MODEL), *chunks(MODEL + b"!")], catalogue.MODEL_FILE_SIZE_MISMATCH, "header.size_bytes"),
    "not a model": (upload(b"just some words"), catalogue.MODEL_FILE_INVALID, None),
    "random bytes": (upload(bytes(range(256)) * 64), catalogue.MODEL_FILE_INVALID, None),
    "cut off inside": (upload(MODEL[: len(MODEL) // 2]), catalogue.MODEL_FILE_INVALID, None),
    "unknown operator": (upload(onnx_models.unknown_operator()), catalogue.MODEL_FILE_INVALID, None),
    "unknown format": (upload(b"\x20\0\0\0TFL3" + bytes(60)), catalogue.MODEL_FORMAT_UNSUPPORTED, None),
    "nothing of a GGUF but its name": (upload(b"GGUF"), catalogue.MODEL_FILE_INVALID, None),
    "GGUF of zeros": (upload(b"GGUF" + bytes(60)), catalogue.MODEL_FILE_INVALID, None),
    "GGUF cut off": (upload(gguf()[:-1]), catalogue.MODEL_FILE_INVALID, None),
    "GGUF that is an adapter": (upload(gguf(toy_values(general__type="adapter"))), catalogue.MODEL_FILE_INVALID, None),
    "GGUF without a vocabulary": (
        upload(gguf(toy_values(tokenizer__ggml__tokens=None))),
        catalogue.MODEL_FILE_INVALID,
        None,
    ),
    "context length in the manifest of an ONNX file": (
        upload(MODEL, manifest=Manifest(language=LanguagePolicy(context_length=512))),
        catalogue.MODEL_MANIFEST_MISMATCH,
        "header.manifest.language",
    ),
    "more context than the model knows": (
        upload(gguf(), manifest=Manifest(language=LanguagePolicy(context_length=2_049))),
        catalogue.MODEL_MANIFEST_MISMATCH,
        "header.manifest.language.context_length",
    ),
    "too many slots": (
        [header(MODEL, manifest=Manifest(language=LanguagePolicy(slots=257)))],
        catalogue.MODEL_MANIFEST_INVALID,
        "header.manifest.language.slots",
    ),
    "pickle": (upload(b"\x80\x04\x95" + bytes(60)), catalogue.MODEL_FORMAT_UNSUPPORTED, None),
    "safetensors": (
        upload(struct.pack("<Q", 40) + b'{"__metadata__":{}}' + bytes(30)),
        catalogue.MODEL_FORMAT_UNSUPPORTED,
        None,
    ),
    "external data": (upload(onnx_models.with_external_data()), catalogue.MODEL_FORMAT_UNSUPPORTED, None),
    "external data in a branch": (
        upload(onnx_models.with_external_data_in_subgraph()),
        catalogue.MODEL_FORMAT_UNSUPPORTED,
        None,
    ),
    "chunk before header": (list(chunks(MODEL)), catalogue.STREAM_ORDER_INVALID, "part"),
    "second header": ([header(MODEL), header(MODEL)], catalogue.STREAM_ORDER_INVALID, "part"),
    "nothing in a message": ([header(MODEL), pb.UploadVersionRequest()], catalogue.FIELD_REQUIRED, "part"),
    "no message": ([], catalogue.REQUEST_MISSING, None),
    "chunk above 4 MiB": (
        [header(bytes(5 << 20)), pb.UploadVersionRequest(chunk=bytes((4 << 20) + 1))],
        catalogue.FIELD_TOO_LONG,
        "chunk",
    ),
    "no size": (upload(MODEL, size_bytes=0), catalogue.FIELD_REQUIRED, "header.size_bytes"),
    "negative size": (upload(MODEL, size_bytes=-1), catalogue.FIELD_INVALID, "header.size_bytes"),
    "above the limit": (
        upload(MODEL, size_bytes=(2 << 30) + 1),
        catalogue.MODEL_FILE_TOO_LARGE,
        "header.size_bytes",
    ),
    "no digest": (upload(MODEL, sha256=""), catalogue.FIELD_REQUIRED, "header.sha256"),
    "digest in capitals": (upload(MODEL, sha256="A" * 64), catalogue.FIELD_INVALID, "header.sha256"),
    "no model name": (upload(MODEL, model=""), catalogue.MODEL_NAME_INVALID, "header.model"),
    "bad model name": (upload(MODEL, model="../m"), catalogue.MODEL_NAME_INVALID, "header.model"),
    "model name with NUL": (upload(MODEL, model="m\0"), catalogue.MODEL_NAME_INVALID, "header.model"),
    "model name with newline": (upload(MODEL, model="m\n"), catalogue.MODEL_NAME_INVALID, "header.model"),
    "negative version": (upload(MODEL, version=-1), catalogue.MODEL_VERSION_INVALID, "header.version"),
    "huge version": (upload(MODEL, version=1 << 62), catalogue.MODEL_VERSION_INVALID, "header.version"),
    "stated tensor that is missing": (
        upload(MODEL, manifest=Manifest(inputs=[TensorSpec(name="nope")])),
        catalogue.MODEL_MANIFEST_MISMATCH,
        "header.manifest.inputs[0].name",
    ),
    "stated datatype that differs": (
        upload(MODEL, manifest=Manifest(outputs=[TensorSpec(name="z", datatype="INT8")])),
        catalogue.MODEL_MANIFEST_MISMATCH,
        "header.manifest.outputs[0].datatype",
    ),
    "stated device nobody knows": (
        upload(MODEL, manifest=Manifest(device_types=["abacus"])),
        catalogue.MODEL_MANIFEST_INVALID,
        "header.manifest.device_types[0]",
    ),
}
FILE_NAMES: dict[str, Case] = {
    f"file name {name!r}": (upload(MODEL, file_name=name), catalogue.NAME_INVALID, "header.file_name")
    for name in (
        "../m.onnx",
        "/etc/passwd",
        "a/b.onnx",
        "..",
        ".",
        ".hidden",
        "a\\b",
        "C:m",
        "a\0b",
        "a\n",
        "é",
        "x" * 129,
    )
}


ALL = CASES | FILE_NAMES


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def untouched(
    postgres_url: str, registry_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningRegistry]:
    """One for all bad uploads: each leaves it to the next as it was."""
    folder = tmp_path_factory.mktemp("registry")
    with fresh_database(postgres_url, template=registry_template) as url:
        async with running_registry(url, Keys.generate(folder), folder) as running:
            yield running


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("messages", "entry", "field"), ALL.values(), ids=ALL.keys())
async def test_bad_upload_is_refused_and_leaves_nothing(
    untouched: RunningRegistry, messages: Sequence[Message], entry: CatalogueEntry, field: str | None
) -> None:
    with pytest.raises(HeadraceError) as failure:
        await untouched.client.send(ACME, messages)
    assert (failure.value.entry, failure.value.field) == (entry, field)
    assert "inspection" not in failure.value.message  # that would be a crash, not an answer
    for leak in ("onnxruntime", "Traceback", "[ONNXRuntimeError]", str(untouched.uploads), "psycopg"):
        assert leak not in failure.value.message
    models: pb.ListModelsResponse = await untouched.client.call(ACME, pb.ListModelsRequest())
    assert not models.models
    assert untouched.spooled_files() == []
    assert untouched.stored_objects() == []
    first = await anext(untouched.client.watch())
    assert (first.revision, len(first.entries)) == (0, 0)


@pytest.mark.asyncio(loop_scope="module")
async def test_failures_name_the_limit(untouched: RunningRegistry) -> None:
    with pytest.raises(HeadraceError, match=str(4 << 20)):
        await untouched.client.send(ACME, CASES["chunk above 4 MiB"][0])
    with pytest.raises(HeadraceError, match=str(2 << 30)):
        await untouched.client.send(ACME, CASES["above the limit"][0])


async def test_service_goes_on_after_bad_uploads(registry: RunningRegistry) -> None:
    for case in ("not a model", "external data", "truncated"):
        with pytest.raises(HeadraceError):
            await registry.client.send(ACME, CASES[case][0])
    assert (await registry.client.upload(MODEL)).version == 1
