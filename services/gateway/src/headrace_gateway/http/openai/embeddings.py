"""OpenAI's embeddings: texts become requests for inference, and vectors become its answer. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
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
from headrace_gateway.http.openai.forms import Inputs, Model

TEXT, EMBEDDING, TOKENS = "text", "embedding", "tokens"
"""Tensors of models that embed; the tokens of each text are told by some."""
GROUP = 16
"""Texts of one inference: a model computes them one after another, and others wait meanwhile."""


class EmbeddingRequest(BaseModel):
    """Body of `/embeddings`."""

    model_config = STRICT

    model: Model
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, description="None but what the model's vectors have.")
    user: str | None = Field(default=None, description="Accepted; means nothing here.")

    def texts(self) -> list[str]:
        """The inputs.

        Raises:
            ValidationError: FIELD_INVALID: one of them is tokens.
        """
        texts: list[str] = []
        for item in self.input:
            if not isinstance(item, str):
                raise ValidationError(
                    "input: the models here embed texts; lists of tokens can't be sent", field="input"
                )
            texts.append(item)
        return texts


def infer_requests(model: ModelReference, texts: Sequence[str], *, request_id: str) -> Iterator[InferRequest]:
    """Requests for the vectors of the texts, a group each."""
    for start in range(0, len(texts), GROUP):
        group = texts[start : start + GROUP]
        message = InferRequest()
        request = message.request
        request.model_name, request.model_version, request.id = model.name, model.model_version, request_id
        request.inputs.add(name=TEXT, datatype="BYTES", shape=[len(group)])
        request.raw_input_contents.append(byte_elements.packed(group))
        yield message


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
