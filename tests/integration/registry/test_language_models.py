"""GGUF files on their way into the registry: understood without being loaded, refused with the reason."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from headrace.registry.v1 import manifest_pb2
from headrace.registry.v1 import models_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import ModelError
from headrace_registry.inspection import Inspector
from support.gguf_files import gguf, toy_values
from support.registry import ACME, RegistryClient
from support.smollm2 import SHA256, model_file
from support.toy_language import CONTEXT, toy_language_model


def inspector(*, timeout_s: float = 60.0) -> Inspector:
    # The process gets less memory than the file has bytes of weights and Python takes: nothing of them is read.
    return Inspector(timeout_s=timeout_s, memory_bytes=512 << 20, concurrent_max=1, registry=CollectorRegistry())


async def _refused(path: Path) -> str:
    with pytest.raises(ModelError) as failure:
        await inspector().inspect_gguf(path, file_name="m.gguf")
    assert failure.value.entry == catalogue.MODEL_FILE_INVALID
    assert failure.value.context == {"file": "m.gguf"}
    return failure.value.message


async def test_the_real_model_is_uploaded_whole_and_its_manifest_says_what_it_is(client: RegistryClient) -> None:
    content = model_file().read_bytes()
    version = await client.upload(content, model="smollm2")
    manifest = version.manifest
    assert (manifest.format, manifest.backend) == (manifest_pb2.ARTIFACT_FORMAT_GGUF, "llamacpp")
    assert manifest.task == manifest_pb2.MODEL_TASK_GENERATE
    assert manifest.language == manifest_pb2.LanguagePolicy(context_length=4_096, slots=8, prompt_batch=64)
    assert [tensor.name for tensor in manifest.outputs] == ["text_output"]
    assert manifest.metadata["quantisation"] == "Q4_1"
    (file,) = version.files
    assert (file.path, file.sha256) == ("model.gguf", SHA256)


async def test_what_a_manifest_states_comes_back_resolved(client: RegistryClient) -> None:
    stated = manifest_pb2.Manifest(
        task=manifest_pb2.MODEL_TASK_EMBED, language=manifest_pb2.LanguagePolicy(pooling=manifest_pb2.POOLING_LAST)
    )
    await client.upload(toy_language_model(), model="toy", manifest=stated)
    read = (await client.call(ACME, pb.GetVersionRequest(model="toy", version=1))).version.manifest
    assert (read.task, read.language.pooling) == (manifest_pb2.MODEL_TASK_EMBED, manifest_pb2.POOLING_LAST)
    assert (read.language.context_length, read.language.slots, read.batched) == (CONTEXT, 1, True)
    again = await client.upload(toy_language_model(), model="toy", manifest=stated)
    assert again.version == 1


async def test_a_file_that_was_cut_off_is_refused_with_the_tensor_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    shutil.copyfile(model_file(), path)
    os.truncate(path, path.stat().st_size - 1)
    assert "the file 'm.gguf' is cut off: it ends before its tensor " in await _refused(path)
    os.truncate(path, 1_000_000)
    assert await _refused(path) == "the file 'm.gguf' is cut off: it ends at byte 1000000, inside its header"


async def test_what_a_file_calls_itself_is_shown_without_what_steers_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(toy_values(general__type="\x1b[31m" + "x" * 5_000)))
    message = await _refused(path)
    assert message.isprintable() and len(message) < 400
    assert "holds no model" in message


async def test_inspection_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    endless = tmp_path / "pipe"
    os.mkfifo(endless)
    with pytest.raises(ModelError) as failure:
        await inspector(timeout_s=1.0).inspect_gguf(endless, file_name="m.gguf")
    assert failure.value.entry == catalogue.MODEL_INSPECTION_LIMIT


async def test_answer_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for a process that was taken over by the file."""
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf())
    assert (await inspector().inspect_gguf(path, file_name="m.gguf")).name == "Toy"
    stand_in = tmp_path / "python"
    for answer in ("nonsense", "[]", "{}", '{"header": []}', '{"header": {"architecture": "x"}}', '{"fault": "new"}'):
        (tmp_path / "answer").write_text(answer)
        stand_in.write_text(f"#!/bin/sh\n/bin/cat {tmp_path / 'answer'}\n")
        stand_in.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(stand_in))
        assert await _refused(path) == "the file 'm.gguf' can't be inspected", answer
