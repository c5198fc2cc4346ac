"""OpenAI's embeddings: texts become requests for inference, and vectors become its answer. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from headrace_client import byte_elements
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import InferRequest, InferResponse
from headrace_client.errors import ValidationError
from headrace_client.model_reference import ModelReference
from headrace_common import catalogue
from headrace_gateway.http.failures import failed
from headrace_gateway.http.json_models import STRICT
from headrace_gateway.http.openai.forms import Inputs, Model, Prompt

TEXT, TOKEN_IDS, EMBEDDING, TOKENS = "text", "token_ids", "embedding", "tokens"
"""Tensors of models that embed; some take tokens in place of texts, a row each, and some tell how many a text has."""
GROUP = 16
"""Inputs of one inference: a model computes them one after another, and others wait meanwhile."""


class EmbeddingRequest(BaseModel):
    """Body of `/embeddings`."""

    model_config = STRICT

    model: Model
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, description="None but what the model's vectors have.")
    user: str | None = Field(default=None, description="Accepted; means nothing here.")


def infer_requests(model: ModelReference, inputs: Sequence[Prompt], *, request_id: str) -> Iterator[InferRequest]:
    """Requests for the vectors of the inputs, a group of texts or of tokens each, in order."""
    for are_texts, alike in groupby(inputs, key=lambda item: isinstance(item, str)):
        items = list(alike)
        for start in range(0, len(items), GROUP):
            group: Any = items[start : start + GROUP]
            message = InferRequest()
            request = message.request
            request.model_name, request.model_version, request.id = model.name, model.model_version, request_id
            if are_texts:
                request.inputs.add(name=TEXT, datatype="BYTES", shape=[len(group)])
                request.raw_input_contents.append(byte_elements.packed(group))
            else:
                rows = _rows(group)
                request.inputs.add(name=TOKEN_IDS, datatype="INT64", shape=rows.shape)
                request.raw_input_contents.append(rows.tobytes())
            yield message


def _rows(items: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    rows = np.full((len(items), max(map(len, items))), -1, "<i8")
    for row, item in zip(rows, items, strict=True):
        row[: len(item)] = item
    return rows


def answer(request: EmbeddingRequest, responses: Iterable[InferResponse], *, model: ModelReference) -> dict[str, Any]:
    """OpenAI's answer.

    Raises:
        HeadraceError: MODEL_TASK_MISMATCH: the model does something else.
        ValidationError: FIELD_INVALID: its vectors have other dimensions than asked for.
    """
    data: list[dict[str, Any]] = []
    tokens = 0
    for response in responses:
        vectors, group_tokens = _read(response, model)
        tokens += group_tokens
        if request.dimensions not in (None, vectors.shape[1]):
            message = f"dimensions is {request.dimensions}; the model's vectors have {vectors.shape[1]}"
            raise ValidationError(message, field="dimensions")
        for vector in vectors:
            value = b64encode(vector.tobytes()).decode() if request.encoding_format == "base64" else vector.tolist()
            data.append({"object": "embedding", "index": len(data), "embedding": value})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def _read(response: InferResponse, model: ModelReference) -> tuple[NDArray[np.float32], int]:
    outputs = {
        output.name: (output, raw)
        for output, raw in zip(response.response.outputs, response.response.raw_output_contents, strict=False)
    }
    if EMBEDDING not in outputs or outputs[EMBEDDING][0].datatype != "FP32" or len(outputs[EMBEDDING][0].shape) != 2:
        message = f"model '{model.name}' makes no embeddings of texts"
        raise failed(catalogue.MODEL_TASK_MISMATCH, message, context={"model": model.name}, field="model")
    embedding, raw = outputs[EMBEDDING]
    vectors = np.frombuffer(raw, "<f4").reshape(embedding.shape)
    return vectors, int(np.frombuffer(outputs[TOKENS][1], "<i4").sum()) if TOKENS in outputs else 0
