"""Manifests of language models: what is filled in, and what is refused with the name of the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from google.protobuf import json_format

from headrace.registry.v1 import manifest_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.gguf import GgufHeader
from headrace_registry.gguf_answer import header_of
from headrace_registry.inspection import Signature
from headrace_registry.language_rules import CONTEXT_MAX
from headrace_registry.manifest import check_stated, merged

SMALL = GgufHeader(
    architecture="llama",
    name="Small\x07Model",
    context_length=8_192,
    block_count=30,
    embedding_length=576,
    head_count=9,
    head_count_kv=3,
    kv_heads=90,
    key_length=64,
    value_length=64,
    vocabulary_size=49_152,
    pooling_type=None,
    causal_attention=True,
    chat_template="",
    quantisation="Q4_1",
    parameters=134_515_008,
)
EMBEDDER = replace(SMALL, architecture="nomic-bert", context_length=2_048, pooling_type=1, causal_attention=False)
RANKER = replace(SMALL, architecture="bert", context_length=512, pooling_type=4, causal_attention=False)
LANGUAGE = pb.LanguagePolicy


def said(**fields: object) -> pb.Manifest:
    return json_format.ParseDict(fields, pb.Manifest())


def merge(stated: pb.Manifest, header: GgufHeader = SMALL) -> pb.Manifest:
    check_stated(stated)
    return merged(stated=stated, artifact_format=pb.ARTIFACT_FORMAT_GGUF, inferred=header)


def test_a_language_model_generates_unless_something_else_is_said() -> None:
    manifest = merge(pb.Manifest())
    assert (manifest.format, manifest.backend) == (pb.ARTIFACT_FORMAT_GGUF, "llamacpp")
    assert manifest.task == pb.MODEL_TASK_GENERATE
    assert manifest.language == LANGUAGE(context_length=4_096, slots=8, prompt_batch=64)
    assert manifest.HasField("batched") and not manifest.batched
    assert list(manifest.inputs) == [
        pb.TensorSpec(name="text_input", datatype="BYTES", shape=[1]),
        pb.TensorSpec(name="stream", datatype="BOOL", shape=[1], optional=True),
        pb.TensorSpec(name="sampling_parameters", datatype="BYTES", shape=[1], optional=True),
        pb.TensorSpec(name="exclude_input_in_output", datatype="BOOL", shape=[1], optional=True),
    ]
    assert list(manifest.outputs) == [pb.TensorSpec(name="text_output", datatype="BYTES", shape=[-1])]
    assert dict(manifest.metadata) == {
        "architecture": "llama",
        "model_name": "SmallModel",
        "parameters": "134515008",
        "quantisation": "Q4_1",
        "trained_context_length": "8192",
    }


def test_what_is_stated_of_a_language_model_stays() -> None:
    language = LANGUAGE(context_length=8_192, slots=100, chat_template="{{ x }}")
    execution = pb.ExecutionPolicy(threads=2)
    stated = pb.Manifest(language=language, metadata={"architecture": "mine"}, execution=execution)
    manifest = merge(stated)
    assert manifest.language == LANGUAGE(context_length=8_192, slots=100, prompt_batch=100, chat_template="{{ x }}")
    assert manifest.metadata["architecture"] == "mine"
    assert manifest.execution.threads == 2


def test_a_model_is_given_no_more_context_than_it_was_trained_for() -> None:
    assert merge(pb.Manifest(), replace(SMALL, context_length=512)).language.context_length == 512
    with pytest.raises(HeadraceError, match="is 8193, the model was trained for 8192") as failure:
        merge(pb.Manifest(language=LANGUAGE(context_length=8_193)))
    assert failure.value.entry == catalogue.MODEL_MANIFEST_MISMATCH


@pytest.mark.parametrize(
    ("header", "stated", "task", "pooling"),
    [
        (EMBEDDER, pb.Manifest(), pb.MODEL_TASK_EMBED, pb.POOLING_MEAN),
        (replace(SMALL, pooling_type=3), pb.Manifest(), pb.MODEL_TASK_EMBED, pb.POOLING_LAST),
        (replace(SMALL, pooling_type=0), pb.Manifest(), pb.MODEL_TASK_GENERATE, 0),
        (replace(EMBEDDER, pooling_type=2), pb.Manifest(), pb.MODEL_TASK_EMBED, pb.POOLING_CLS),
        (replace(SMALL, pooling_type=3), pb.Manifest(task=pb.MODEL_TASK_GENERATE), pb.MODEL_TASK_GENERATE, 0),
        (SMALL, pb.Manifest(task=pb.MODEL_TASK_EMBED), pb.MODEL_TASK_EMBED, pb.POOLING_MEAN),
        (RANKER, pb.Manifest(), pb.MODEL_TASK_RERANK, 0),
        (RANKER, pb.Manifest(task=pb.MODEL_TASK_RERANK), pb.MODEL_TASK_RERANK, 0),
        (
            SMALL,
            pb.Manifest(task=pb.MODEL_TASK_EMBED, language=LANGUAGE(pooling=pb.POOLING_LAST)),
            pb.MODEL_TASK_EMBED,
            pb.POOLING_LAST,
        ),
    ],
)
def test_task_and_pooling_are_what_the_file_or_the_manifest_says(
    header: GgufHeader, stated: pb.Manifest, task: int, pooling: int
) -> None:
    manifest = merge(stated, header)
    assert (manifest.task, manifest.language.pooling) == (task, pooling)
    assert manifest.language.slots == (8 if task == pb.MODEL_TASK_GENERATE else 1)


def test_tensors_of_models_that_embed_and_rank() -> None:
    embeds = merge(pb.Manifest(), EMBEDDER)
    assert [(t.name, t.datatype, list(t.shape)) for t in (*embeds.inputs, *embeds.outputs)] == [
        ("text", "BYTES", [-1]),
        ("embedding", "FP32", [-1, 576]),
        ("tokens", "INT32", [-1]),
    ]
    assert embeds.batched
    ranks = merge(pb.Manifest(), RANKER)
    assert [(t.name, t.datatype, list(t.shape)) for t in (*ranks.inputs, *ranks.outputs)] == [
        ("query", "BYTES", [1]),
        ("documents", "BYTES", [-1]),
        ("score", "FP32", [-1]),
    ]
    assert not ranks.batched


def _language(**fields: object) -> Callable[[pb.Manifest], object]:
    def change(manifest: pb.Manifest) -> None:
        for name, value in fields.items():
            setattr(manifest.language, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_language(context_length=31), "language.context_length"),
        (_language(context_length=CONTEXT_MAX + 1), "language.context_length"),
        (_language(slots=257), "language.slots"),
        (_language(prompt_batch=15), "language.prompt_batch"),
        (_language(prompt_batch=4_097), "language.prompt_batch"),
        (_language(prompt_batch=16, slots=17), "language.prompt_batch"),
        (_language(pooling=99), "language.pooling"),
        (_language(chat_template="é" * 32_769), "language.chat_template"),
        (_language(chat_template="a\0b"), "language.chat_template"),
        (lambda m: setattr(m, "task", 99), "task"),
        (lambda m: (setattr(m, "format", pb.ARTIFACT_FORMAT_ONNX), _language(slots=1)(m)), "language"),
        (lambda m: m.MergeFrom(pb.Manifest(format=pb.ARTIFACT_FORMAT_ONNX, task=pb.MODEL_TASK_EMBED)), "task"),
        (lambda m: m.MergeFrom(pb.Manifest(format=pb.ARTIFACT_FORMAT_GGUF, task=pb.MODEL_TASK_INFER)), "task"),
    ],
)
def test_statement_that_can_not_be_right_needs_no_file(change: Callable[[pb.Manifest], object], field: str) -> None:
    stated = pb.Manifest()
    change(stated)
    with pytest.raises(HeadraceError) as failure:
        check_stated(stated)
    assert failure.value.entry == catalogue.MODEL_MANIFEST_INVALID
    assert failure.value.field == f"header.manifest.{field}"


def test_the_bounds_themselves_are_allowed() -> None:
    check_stated(pb.Manifest(language=LANGUAGE(context_length=CONTEXT_MAX, slots=256, prompt_batch=4_096)))
    check_stated(pb.Manifest(language=LANGUAGE(context_length=32, slots=1, prompt_batch=16)))
    check_stated(pb.Manifest(language=LANGUAGE(chat_template="x" * 65_536)))


EMBED = pb.Manifest(task=pb.MODEL_TASK_EMBED)


@pytest.mark.parametrize(
    ("header", "stated", "field"),
    [
        (SMALL, pb.Manifest(task=pb.MODEL_TASK_INFER), "task"),
        (SMALL, pb.Manifest(task=pb.MODEL_TASK_RERANK), "task"),
        (EMBEDDER, pb.Manifest(task=pb.MODEL_TASK_GENERATE), "task"),
        (RANKER, pb.Manifest(task=pb.MODEL_TASK_GENERATE), "task"),
        (RANKER, pb.Manifest(task=pb.MODEL_TASK_EMBED), "task"),
        (SMALL, pb.Manifest(format=pb.ARTIFACT_FORMAT_ONNX), "format"),
        (SMALL, said(sequence={"states": [{"input": "a", "output": "b"}]}), "sequence"),
        (SMALL, said(execution={"instances": 2}), "execution.instances"),
        (SMALL, said(execution={"batching": {"max_batch_size": 4}}), "execution.batching"),
        (SMALL, said(execution={"warm_up": [{"count": 1}]}), "execution.warm_up"),
        (SMALL, pb.Manifest(batched=True), "batched"),
        (SMALL, said(inputs=[{"name": "prompt"}]), "inputs[0].name"),
        (SMALL, said(language={"pooling": pb.POOLING_MEAN}), "language.pooling"),
        (EMBEDDER, said(execution={"instances": 2}), "execution.instances"),
        (EMBEDDER, said(language={"slots": 2}), "language.slots"),
        (EMBEDDER, said(language={"prompt_batch": 64}), "language.prompt_batch"),
        (EMBEDDER, said(language={"chat_template": "x"}), "language.chat_template"),
        (RANKER, said(language={"pooling": pb.POOLING_MEAN}), "language.pooling"),
        (RANKER, said(execution={"batching": {"max_batch_size": 4}}), "execution.batching"),
    ],
)
def test_what_a_model_can_not_do_is_refused_with_the_field(header: GgufHeader, stated: pb.Manifest, field: str) -> None:
    with pytest.raises(HeadraceError) as failure:
        merge(stated, header)
    assert failure.value.entry in (catalogue.MODEL_MANIFEST_MISMATCH, catalogue.MODEL_MANIFEST_INVALID)
    assert failure.value.field == f"header.manifest.{field}"


def test_texts_to_embed_may_be_batched() -> None:
    assert merge(said(execution={"batching": {"max_batch_size": 4}}), EMBEDDER).batched


@pytest.mark.parametrize(
    ("stated", "field"),
    [(pb.Manifest(language=LANGUAGE(slots=1)), "language"), (pb.Manifest(task=pb.MODEL_TASK_GENERATE), "task")],
)
def test_a_model_of_tensors_is_no_language_model(stated: pb.Manifest, field: str) -> None:
    tensor = pb.TensorSpec(name="x", datatype="FP32", shape=[-1])
    signature = Signature(inputs=[tensor], outputs=[tensor])
    with pytest.raises(HeadraceError) as failure:
        merged(stated=stated, artifact_format=pb.ARTIFACT_FORMAT_ONNX, inferred=signature)
    assert (failure.value.entry, failure.value.field) == (catalogue.MODEL_MANIFEST_MISMATCH, f"header.manifest.{field}")
    plain = merged(stated=pb.Manifest(), artifact_format=pb.ARTIFACT_FORMAT_ONNX, inferred=signature)
    assert plain.task == pb.MODEL_TASK_INFER


@pytest.mark.parametrize(
    "change",
    [
        {"context_length": "8192"},
        {"context_length": True},
        {"context_length": -1},
        {"context_length": 1 << 63},
        {"context_length": None},
        {"context_length": 1.5},
        {"name": 7},
        {"causal_attention": 1},
        {"pooling_type": "mean"},
    ],
)
def test_answer_of_an_inspection_is_not_believed(change: dict[str, object]) -> None:
    assert header_of({"header": asdict(SMALL)}) == SMALL
    with pytest.raises((ValueError, TypeError)):
        header_of({"header": {**asdict(SMALL), **change}})


@pytest.mark.parametrize("document", [{}, {"header": {}}, {"header": []}, {"header": "x"}, {"header": None}])
def test_answer_without_a_header_is_none(document: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        header_of(document)
