"""Models that take pictures and texts, in a runner: batches, bad elements, and the tensors that still go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from headrace.registry.v1 import manifest_pb2 as pb
from headrace.registry.v1.models_pb2 import Version
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_runner.calls import Answer
from support.artifacts import version_of
from support.processing import (
    TEXTS,
    brightness_model,
    elements,
    encoded,
    photograph,
    registered,
    tokenizer_file,
    word_encoder,
    word_vectors,
)
from support.runner import RunnerUnderTest, failure_of, outputs_of, request_of, running_host

COLOURS = ["red", "green", "blue"]
VISION: dict[str, Any] = {
    "processing": {"image": {}, "labels": {"activation": "LABEL_ACTIVATION_SOFTMAX", "topK": 2}},
    "classLabels": COLOURS,
}


def picture(colour: str) -> bytes:
    return encoded(Image.new("RGB", (50, 40), colour), "PNG")


async def loaded(runner: RunnerUnderTest, files: dict[str, bytes], manifest: pb.Manifest) -> Version:
    version = version_of("m", files, manifest=manifest)
    runner.artifacts.files |= files
    runner.want(version)
    await runner.settled(version.uid)
    return version


async def together(runner: RunnerUnderTest, version: Version, *payloads: bytes) -> list[Answer | BaseException]:
    """Sends calls in one turn of the event loop."""
    calls = (runner.answer(runner.call(version, payload)) for payload in payloads)
    return await asyncio.gather(*calls, return_exceptions=True)


def executions(runner: RunnerUnderTest) -> float:
    return runner.metric("batch_rows_count", tenant="acme", model="m", version="1")


async def test_bad_picture_fails_alone_and_the_others_share_an_execution(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await loaded(runner, {"model.onnx": brightness_model()}, registered(brightness_model(), VISION))
        broken = photograph()[:5_000]
        requests = [elements(picture("red")), elements(broken), elements(picture("blue"), picture("green"))]
        requests.append(elements(photograph("flower.jpg")))
        answers = await together(runner, version, *(request_of({"image": one}) for one in requests))
        first, bad, second, third = answers
        assert isinstance(bad, HeadraceError)
        assert (bad.entry, bad.context["element"]) == (catalogue.IMAGE_INVALID, 0)
        assert executions(runner) == 1
        best: list[Any] = []
        for answer in (first, second, third):
            assert isinstance(answer, Answer)
            assert (answer.rows, answer.batch_calls) == (4, 4)
            found = outputs_of(answer.payload)
            assert found.keys() == {"label", "score"}
            assert found["score"].shape == found["label"].shape == (len(found["label"]), 2)
            best += found["label"][:, 0].tolist()
        assert best[:3] == [b"red", b"blue", b"green"]
        assert sum(answer.leads_batch for answer in answers if isinstance(answer, Answer)) == 1
        alone = await failure_of(runner.infer(version, image=elements(picture("red"), b"GIF89a")))
        assert (alone.entry, alone.context["element"]) == (catalogue.IMAGE_INVALID, 1)
        all_bad = await together(runner, version, *[request_of({"image": elements(broken)})] * 3)
        assert [getattr(one, "entry", None) for one in all_bad] == [catalogue.IMAGE_INVALID] * 3
        assert executions(runner) == 1


async def test_model_still_takes_its_tensors_and_gives_its_outputs(tmp_path: Path) -> None:
    async with running_host(tmp_path) as runner:
        version = await loaded(runner, {"model.onnx": brightness_model()}, registered(brightness_model(), VISION))
        x = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
        raw = request_of({"image": elements(picture("lime"))}, outputs=["z"])
        # In one turn, and before any execution was timed: how long those took decides what is worth a batch.
        # Those that bring tensors and those that bring pictures never share an execution.
        answers = await together(runner, version, request_of({"x": x}), raw, request_of({"x": x[:1]}), raw)
        assert [answer.rows for answer in answers if isinstance(answer, Answer)] == [3, 2, 3, 2]
        found = await runner.infer(version, x=x)
        assert found.keys() == {"z"}
        np.testing.assert_allclose(found["z"], x.mean((2, 3)), rtol=1e-5)
        named = request_of({"x": x}, outputs=["score", "z", "label"])
        found = outputs_of((await runner.answer(runner.call(version, named))).payload)
        best = x.mean((2, 3)).argmax(1)
        assert found["label"][:, 0].tolist() == [COLOURS[index].encode() for index in best]
        found = outputs_of((await runner.answer(runner.call(version, raw))).payload)
        np.testing.assert_allclose(found["z"], [[0, 1, 0]], atol=1e-6)


async def test_request_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    x = np.zeros((1, 3, 32, 32), np.float32)
    cases: list[tuple[dict[str, NDArray[Any]], str, str | None]] = [
        ({"image": elements(b""), "x": x}, "PROCESSED_INPUT_CONFLICT", "inputs[1].name"),
        ({"image": x}, "TENSOR_DATATYPE_MISMATCH", "inputs[0].datatype"),
        ({"image": elements(b"").reshape(1, 1)}, "TENSOR_SHAPE_MISMATCH", "inputs[0].shape"),
        ({"image": elements()}, "TENSOR_SHAPE_MISMATCH", None),
        ({"image": elements(*[picture("red")] * 22_000)}, "TENSOR_BATCH_TOO_LARGE", None),
        ({}, "TENSOR_MISSING", "inputs"),
    ]
    async with running_host(tmp_path) as runner:
        version = await loaded(runner, {"model.onnx": brightness_model()}, registered(brightness_model(), VISION))
        for inputs, reason, field in cases:
            failure = await failure_of(runner.infer(version, **inputs))
            assert (failure.reason, failure.field) == (reason, field)


async def test_encoder_gives_the_embeddings_that_the_libraries_give(tmp_path: Path) -> None:
    files = {"model.onnx": word_encoder(), "tokenizer.json": tokenizer_file()}
    fields = {"processing": {"text": {"specialTokens": False}, "embedding": {}}}
    async with running_host(tmp_path) as runner:
        version = await loaded(runner, files, registered(files["model.onnx"], fields, "tokenizer.json"))
        library = Tokenizer.from_str(tokenizer_file().decode())
        ids = [library.encode(text, add_special_tokens=False).ids for text in TEXTS]
        means = np.array([word_vectors()[one].astype(np.float32).mean(0) for one in ids])
        expected = means / np.linalg.norm(means, axis=1, keepdims=True)
        answers = await together(runner, version, *(request_of({"text": elements(text.encode())}) for text in TEXTS))
        for answer, vector, tokens in zip(answers, expected, ids, strict=True):
            assert isinstance(answer, Answer)
            assert answer.rows == 4
            found = outputs_of(answer.payload)
            np.testing.assert_allclose(found["embedding"], [vector], atol=1e-6)
            assert found["tokens"].tolist() == [len(tokens)]
        own = {"input_ids": np.array([ids[0]]), "attention_mask": np.array([[1] * 3 + [0] * (len(ids[0]) - 3)])}
        payload = request_of(own, outputs=["embedding", "tokens"])
        found = outputs_of((await runner.answer(runner.call(version, payload))).payload)
        three = word_vectors()[ids[0][:3]].astype(np.float32).mean(0)
        np.testing.assert_allclose(found["embedding"], [three / np.linalg.norm(three)], atol=1e-6)
        assert found["tokens"].tolist() == [3]
        long = await failure_of(runner.infer(version, text=elements(b"fine", b"word " * 600)))
        assert (long.entry, long.context["element"]) == (catalogue.TEXT_TOO_LONG, 1)


async def test_version_without_a_readable_tokenizer_fails_to_load(tmp_path: Path) -> None:
    files = {"model.onnx": word_encoder(), "tokenizer.json": b"[]"}
    manifest = registered(files["model.onnx"], {"processing": {"text": {}}}, "tokenizer.json")
    async with running_host(tmp_path) as runner:
        failure = await failure_of(loaded(runner, files, manifest))
        assert failure.entry == catalogue.MODEL_LOAD_FAILED
        assert "tokenizer" in failure.message
