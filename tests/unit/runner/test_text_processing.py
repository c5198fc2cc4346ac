"""Texts to tensors, as the tokenizers library itself makes them, and embeddings and labels as NumPy does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from headrace.registry.v1 import manifest_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import ModelError, TensorError
from headrace_registry.answer_rules import check_embedding, complete_embedding, complete_labels
from headrace_registry.text_rules import check_text_processor, complete_text
from headrace_runner.processing.answers import EmbeddingMaker, LabelMaker
from headrace_runner.processing.raw_input import Made
from headrace_runner.processing.texts import TextReader
from headrace_runner.tensors.signature import TensorSpec
from support.processing import TEXTS, tokenizer_file

NAMES = ("input_ids", "attention_mask", "token_type_ids")
README = Path(__file__).parents[3] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real tokenizer, and one in the manner of BERT made of this project's words."""
    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "llama.json").write_bytes(tokenizer_file())
    bert = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    bert.normalizer = normalizers.BertNormalizer()
    bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    bert.train([str(README)], trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    bert.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    bert.save(str(folder / "bert.json"))
    bert.enable_padding(direction="left", pad_id=1, pad_type_id=7)
    bert.save(str(folder / "left.json"))
    (folder / "none.json").write_text('{"model": 3}')
    return folder


def reader(
    folder: Path, *, axis: int = -1, datatype: str = "INT64", names: tuple[str, ...] = NAMES, **fields: Any
) -> TextReader:
    policy = ParseDict({"tokenizer": "bert.json", **fields}, pb.TextProcessor())
    check_text_processor(policy)
    specs = [pb.TensorSpec(name=name, datatype=datatype, shape=[-1, axis]) for name in names]
    complete_text(policy, specs, frozenset({policy.tokenizer}))
    own = {name: TensorSpec(name, datatype, (-1, axis)) for name in names}
    return TextReader(policy=policy, specs=own, folder=folder)


def read(one: TextReader, *texts: str) -> Made:
    return one.join(one.read([text.encode() for text in texts]))


def failure_of(one: TextReader, *elements: bytes) -> TensorError:
    with pytest.raises(TensorError) as failure:
        one.read(elements)
    return failure.value


@pytest.mark.parametrize(("file", "special"), [("bert.json", True), ("left.json", True), ("llama.json", False)])
def test_tensors_are_those_of_the_library(folder: Path, file: str, special: bool) -> None:
    made = read(reader(folder, tokenizer=file, specialTokens=special), *TEXTS)
    library = Tokenizer.from_file(str(folder / file))
    if library.padding is None:
        library.enable_padding()
    expected = library.encode_batch(list(TEXTS), add_special_tokens=special)
    np.testing.assert_array_equal(made.inputs["input_ids"], [one.ids for one in expected])
    np.testing.assert_array_equal(made.inputs["attention_mask"], [one.attention_mask for one in expected])
    np.testing.assert_array_equal(made.inputs["token_type_ids"], [one.type_ids for one in expected])
    np.testing.assert_array_equal(made.mask, made.inputs["attention_mask"])


def test_rows_of_several_requests_are_padded_together(folder: Path) -> None:
    one = reader(folder, names=("input_ids",), datatype="INT32")
    apart = [one.read([text.encode()]) for text in TEXTS]
    joined = one.join([row for rows in apart for row in rows])
    assert joined.inputs.keys() == {"input_ids"}
    assert joined.inputs["input_ids"].dtype == np.int32
    np.testing.assert_array_equal(joined.inputs["input_ids"], read(one, *TEXTS).inputs["input_ids"])


def test_fixed_length_is_filled_and_long_texts_are_cut_or_refused(folder: Path) -> None:
    made = read(reader(folder, axis=16, truncate=True), *TEXTS)
    assert made.inputs["input_ids"].shape == (4, 16)
    # The tokens for the end of a text are kept.
    assert (made.inputs["input_ids"][3, 0], made.inputs["input_ids"][3, -1]) == (2, 3)
    library = Tokenizer.from_file(str(folder / "bert.json"))
    library.enable_truncation(16)
    assert made.inputs["input_ids"][3].tolist() == library.encode(TEXTS[3]).ids
    tokens = len(Tokenizer.from_file(str(folder / "bert.json")).encode(TEXTS[3]).ids)
    read(reader(folder, maxLength=tokens), *TEXTS)
    failure = failure_of(reader(folder, maxLength=tokens - 1), *(text.encode() for text in TEXTS))
    assert failure.entry == catalogue.TEXT_TOO_LONG
    assert failure.context == {"tensor": "text", "element": 3, "limit": tokens - 1, "actual": tokens}
    failure = failure_of(reader(folder, bytesMax=4, truncate=True), b"abcd", b"abcde")
    assert (failure.entry, failure.context["element"]) == (catalogue.TEXT_TOO_LONG, 1)


def test_what_is_no_text_is_refused(folder: Path) -> None:
    failure = failure_of(reader(folder), b"fine", b"\xff\xfe")
    assert (failure.entry, failure.context["tensor"]) == (catalogue.TENSOR_ELEMENT_INVALID, "text")
    assert failure_of(reader(folder, specialTokens=False), b"").entry == catalogue.TENSOR_ELEMENT_INVALID
    assert read(reader(folder), "", "\0").inputs["input_ids"][0, :2].tolist() == [2, 3]


@pytest.mark.parametrize(("file", "length"), [("none.json", 8), ("bert.json", 2)])
def test_tokenizer_that_can_not_serve_fails_the_load(folder: Path, file: str, length: int) -> None:
    with pytest.raises(ModelError) as failure:
        reader(folder, tokenizer=file, maxLength=length)
    assert failure.value.entry == catalogue.MODEL_LOAD_FAILED


def embedding_of(
    vectors: NDArray[Any], mask: NDArray[Any] | None, datatype: str = "FP32", **fields: Any
) -> NDArray[Any]:
    policy = ParseDict(fields, pb.EmbeddingProcessor())
    check_embedding(policy)
    shape = (-1, *(-1 for _ in vectors.shape[2:]), vectors.shape[-1])
    made = complete_embedding(policy, [pb.TensorSpec(name="h", datatype=datatype, shape=shape)])
    assert (made.datatype, list(made.shape)) == ("FP32", [-1, vectors.shape[-1]])
    maker = EmbeddingMaker(policy=policy, spec=TensorSpec("h", datatype, shape))
    return maker.make({"h": vectors}, mask)["embedding"]


@pytest.mark.parametrize("left", [False, True])
def test_vectors_are_pooled_without_padding(left: bool) -> None:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((3, 5, 8)).astype(np.float32)
    lengths = [5, 1, 3]
    mask = np.array([[1] * n + [0] * (5 - n) for n in lengths])
    rows = [row[:n] for row, n in zip(vectors, lengths, strict=True)]
    if left:
        mask = mask[:, ::-1]
        rows = [row[5 - n :] for row, n in zip(vectors, lengths, strict=True)]
    plain: dict[str, Any] = {"normalize": False}
    np.testing.assert_allclose(embedding_of(vectors, mask, **plain), [row.mean(0) for row in rows], rtol=1e-5)
    first = embedding_of(vectors, mask, pooling="POOLING_CLS", **plain)
    np.testing.assert_array_equal(first, [row[0] for row in rows])
    last = embedding_of(vectors, mask, pooling="POOLING_LAST", **plain)
    np.testing.assert_array_equal(last, [row[-1] for row in rows])
    np.testing.assert_allclose(np.linalg.norm(embedding_of(vectors, mask), axis=1), 1, rtol=1e-6)
    half = vectors.astype(np.float16)
    np.testing.assert_allclose(embedding_of(half, None, "FP16", **plain), half.astype(np.float32).mean(1), rtol=1e-5)
    pooled = vectors[:, 0]
    np.testing.assert_allclose(embedding_of(pooled, mask), pooled / np.linalg.norm(pooled, axis=1)[:, None], rtol=1e-6)
    assert np.isfinite(embedding_of(np.zeros((1, 2, 4), np.float32), None)).all()


@pytest.mark.parametrize("activation", ["NONE", "SOFTMAX", "SIGMOID"])
def test_labels_are_the_best_classes(activation: str) -> None:
    numbers = np.random.default_rng(2).standard_normal((6, 9)).astype(np.float32) * 50
    numbers[0, :4] = 200
    numbers[1, 2] = np.nan
    policy = pb.LabelProcessor(activation=f"LABEL_ACTIVATION_{activation}", top_k=3)  # pyright: ignore[reportArgumentType]
    complete_labels(policy, [pb.TensorSpec(name="z", datatype="FP32", shape=[-1, 9])], 9)
    maker = LabelMaker(policy=policy, spec=TensorSpec("z", "FP32", (-1, 9)), class_labels=[f"c{n}" for n in range(9)])
    made = maker.make({"z": numbers[[0, 2, 3]]}, None)
    wide = numbers[[0, 2, 3]].astype(np.float64)
    scores = {
        "NONE": wide,
        "SOFTMAX": np.exp(wide - wide.max(1, keepdims=True))
        / np.exp(wide - wide.max(1, keepdims=True)).sum(1, keepdims=True),
        "SIGMOID": 1 / (1 + np.exp(-wide)),
    }[activation]
    assert made["label"][0].tolist() == [b"c0", b"c1", b"c2"]
    best = np.argsort(-wide, axis=1, kind="stable")[:, :3]
    np.testing.assert_allclose(made["score"], np.take_along_axis(scores, best, axis=1), rtol=1e-5, atol=1e-7)
    if activation == "NONE":
        assert b"c2" not in maker.make({"z": numbers[1:2]}, None)["label"]
