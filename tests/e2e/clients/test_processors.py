"""Pictures and texts through a whole mesh: pushed with their files, listed, and called by the SDK and the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from headrace_client import Client
from headrace_client.contracts.headrace.registry.v1 import manifest_pb2
from headrace_client.errors import ModelError, TensorError
from support.headrace_command import Headrace
from support.mesh import Mesh
from support.processing import (
    TEXTS,
    brightness_model,
    encoded,
    photograph,
    tokenizer_file,
    word_encoder,
    word_vectors,
)

ENCODER = "word-encoder"
# A PNG file whose header says 50,000 by 50,000 pixels.
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (50_000).to_bytes(4) * 2 + bytes(1_000)


@pytest.fixture
def client(mesh: Mesh) -> Iterator[Client]:
    with Client(mesh.grpc, api_key=mesh.api_key, timeout_s=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def encoder_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a person has: a model, its tokenizer, and a model.yaml."""
    folder = tmp_path_factory.mktemp("encoder")
    manifest = {
        "processing": {"text": {"specialTokens": False, "maxLength": 256}, "embedding": {"pooling": "POOLING_MEAN"}}
    }
    contents = {
        "model.onnx": word_encoder(),
        "tokenizer.json": tokenizer_file(),
        "model.yaml": yaml.safe_dump(manifest).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def vectors_of(texts: tuple[str, ...]) -> tuple[NDArray[np.float32], list[int]]:
    """Embeddings by the libraries themselves, and how many tokens they are of."""
    library = Tokenizer.from_str(tokenizer_file().decode())
    ids = [library.encode(text, add_special_tokens=False).ids for text in texts]
    means = np.array([word_vectors()[one].astype(np.float32).mean(0) for one in ids])
    return means / np.linalg.norm(means, axis=1, keepdims=True), [len(one) for one in ids]


def test_encoder_with_its_tokenizer_embeds_for_every_client(
    mesh: Mesh, client: Client, encoder_files: dict[str, Path]
) -> None:
    headrace = Headrace.of(mesh)
    files = {name: str(path) for name, path in encoder_files.items()}
    push = ("models", "push", files["model.onnx"], "--name", ENCODER, "--manifest", files["model.yaml"])
    assert "none of the upload's extra files" in headrace(*push, status=1).stderr
    shown = headrace(*push, "--file", files["tokenizer.json"]).stdout
    assert "text" in shown
    assert "embedding" in shown
    assert ":1" in headrace(*push, "--file", files["tokenizer.json"]).stdout
    assert "texts of 256 tokens as 'text'" in headrace("models", "show", ENCODER).stdout
    expected, tokens = vectors_of(TEXTS)
    metadata = client.models.metadata(ENCODER)
    assert (metadata.inputs[0].name, metadata.inputs[0].datatype, list(metadata.inputs[0].shape)) == (
        "text",
        "BYTES",
        [-1],
    )
    assert [output.name for output in metadata.outputs] == ["embedding", "tokens", "last_hidden_state"]
    assert client.models.version(ENCODER).manifest.task == manifest_pb2.MODEL_TASK_EMBED
    answer = client.infer(ENCODER, {"text": list(TEXTS)})
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-6)
    assert answer["tokens"].tolist() == tokens
    said = headrace("embed", ENCODER, *TEXTS, "--json").document
    np.testing.assert_allclose([one["embedding"] for one in said["embeddings"]], expected, atol=1e-6)
    asked = {"model": ENCODER, "input": list(TEXTS)}
    openai = httpx.post(f"{mesh.http}/v1/embeddings", json=asked, headers={"x-api-key": mesh.api_key}, timeout=60)
    assert openai.status_code == 200, openai.text
    np.testing.assert_allclose([one["embedding"] for one in openai.json()["data"]], expected, atol=1e-6)
    assert openai.json()["usage"]["prompt_tokens"] == sum(tokens)
    with pytest.raises(TensorError) as failure:
        client.infer(ENCODER, {"text": ["fine", "word " * 300]})
    assert (failure.value.reason, failure.value.context["element"]) == ("TEXT_TOO_LONG", "1")


def test_picture_model_answers_with_labels(mesh: Mesh, client: Client, tmp_path: Path) -> None:
    processing = {"image": {"mean": [0.5], "std": [0.5]}, "labels": {"activation": "LABEL_ACTIVATION_SIGMOID"}}
    fields = {"processing": processing, "classLabels": ["red", "green", "blue"]}
    with pytest.raises(ModelError) as refused:
        client.models.push(brightness_model(), name="brightness", manifest={**fields, "classLabels": ["red"]})
    assert (refused.value.reason, refused.value.field) == ("MODEL_MANIFEST_MISMATCH", "header.manifest.class_labels")
    client.models.push(brightness_model(), name="brightness", manifest=fields, file_name="model.onnx")
    pictures = [
        photograph(),
        encoded(Image.new("RGB", (9, 7), "blue"), "WEBP"),
        encoded(Image.new("L", (2, 2), 9), "PNG"),
    ]
    answer = client.infer("brightness", {"image": pictures})
    assert [row[0] for row in answer["label"].tolist()][1] in (b"blue", "blue")
    np.testing.assert_allclose(answer["score"][1], [1 / (1 + np.exp(-value)) for value in (1, -1, -1)], atol=1e-2)
    assert answer["label"].shape == (3, 3)
    (tmp_path / "blue.webp").write_bytes(pictures[1])
    said = Headrace.of(mesh)("infer", "brightness", "--input", f"@{tmp_path / 'blue.webp'}").stdout
    assert "blue" in said
    assert "row 0" not in said
    form = {"data": {"modelId": "brightness"}, "headers": {"x-api-key": mesh.api_key}, "timeout": 60}
    posted = httpx.post(f"{mesh.http}/v1/infer", files=[("image", one) for one in pictures], **form)
    assert posted.status_code == 200, posted.text
    np.testing.assert_allclose(posted.json()["outputs"]["score"]["data"], answer["score"], rtol=1e-6)
    for content, status, reason in (
        (pictures[0][:3_000], 400, "IMAGE_INVALID"),
        (BOMB, 413, "IMAGE_TOO_LARGE"),
        (b"\xff\xd8 called a picture", 400, "IMAGE_INVALID"),
    ):
        refused = httpx.post(f"{mesh.http}/v1/infer", files=[("image", ("cat.png", content, "image/png"))], **form)
        assert (refused.status_code, refused.json()["errorCode"]) == (status, reason), refused.text
    with pytest.raises(TensorError) as failure:
        client.infer("brightness", {"image": [pictures[1], pictures[0][:3_000]]})
    assert (failure.value.reason, failure.value.context["element"]) == ("IMAGE_INVALID", "1")
