"""Embeddings and rankings: thin forms of inference."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from headrace_client import AsyncClient, Client, rpcs
from headrace_client.byte_elements import unpacked
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.errors import TensorError
from support.scripted_mesh import ScriptedMesh, serving


async def lengths(content: bytes) -> bytes:
    """Vectors and scores that tell the lengths of the texts."""
    request = inference_pb2.InferRequest.FromString(content).request
    tensors = {tensor.name: raw for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
    assert all(tensor.datatype == "BYTES" for tensor in request.inputs)
    answer = inference_pb2.InferResponse()
    if "text" in tensors:
        sizes = [len(text) for text in unpacked(tensors["text"])]
        answer.response.outputs.add(name="embedding", datatype="FP32", shape=[len(sizes), 2])
        values = np.array([[size, -size] for size in sizes], np.float32)
    else:
        (query,) = unpacked(tensors["query"])
        values = np.array([len(text) - len(query) for text in unpacked(tensors["documents"])], np.float32)
        answer.response.outputs.add(name="score", datatype="FP32", shape=values.shape)
    answer.response.raw_output_contents.append(values.tobytes())
    return answer.SerializeToString()


async def test_texts_become_vectors_and_documents_get_scores() -> None:
    async with serving(ScriptedMesh(unary={rpcs.INFER.path: lengths})) as address:
        async with AsyncClient(address) as client:
            assert (await client.embed("m", ["a", "bc"])).tolist() == [[1, -1], [2, -2]]
            assert (await client.rerank("m", "ab", ["abc", "ä"], timeout_s=20)).tolist() == [1, 0]
            for texts in ("a text", ["a", 1], [b"a"]):
                with pytest.raises(TensorError, match="a list of texts"):
                    await client.embed("m", texts)  # pyright: ignore[reportArgumentType]

        def use() -> None:
            with Client(address) as client:
                assert client.embed("m", ["a"], version=2).dtype == np.float32
                assert client.rerank("m", "ab", ["abc"]).shape == (1,)

        await asyncio.to_thread(use)
