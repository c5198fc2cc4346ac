"""Models that make vectors or scores of texts: tensors in, tensors out, in the threads of a replica."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from threading import Lock, get_ident
from typing import Any

import numpy as np
import structlog

from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError, TensorError
from headrace_runner.backends.llamacpp.client import ModelClient, Refused
from headrace_runner.backends.llamacpp.process import ModelProcess
from headrace_runner.backends.llamacpp.prompt import Tokenizer
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.parameters import ParameterValue
from headrace_runner.tensors.signature import TensorSpec

TEXTS_MAX = 1024
"""Of one call; each one takes a request of its own before they are computed."""


class TensorModel(ABC):
    """Implements `LoadedModel`, `Interruptible`, `ComputesAside` and `MayFail`.

    Args:
        process: Runs the model already; closed with this.
        context_length: Tokens that one input may have.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def __init__(self, *, process: ModelProcess, context_length: int, vocabulary_size: int) -> None:
        self.process = process
        self._client = ModelClient(process=process)
        self._tokenizer = Tokenizer(client=self._client, context_length=context_length, vocabulary_size=vocabulary_size)
        self._context_length = context_length
        self._vocabulary_size = vocabulary_size
        self._interrupting = Lock()
        self._running: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Task[Mapping[str, Array]]]] = {}
        self._log = structlog.stdlib.get_logger("llamacpp")

    @property
    def memory_bytes(self) -> int:
        return self.process.memory_bytes

    @property
    def failure(self) -> HeadraceError | None:
        return self.process.failure

    @property
    def process_id(self) -> int:
        return self.process.pid

    def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, ParameterValue]
    ) -> Sequence[Array]:
        try:
            computed = asyncio.run(self._interruptible(self._compute(inputs)))
        except Refused as refused:
            self._log.warning("llama.cpp refused a request", status=refused.status, kind=refused.kind)
            raise _failed() from None
        except asyncio.CancelledError:
            raise _failed() from None
        return [computed[name] for name in outputs]

    def interrupt(self, thread_id: int | None = None) -> None:
        with self._interrupting:
            running = [found for thread, found in self._running.items() if thread_id in (None, thread)]
            for loop, task in running:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        self.process.close()

    @abstractmethod
    async def _compute(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs. What it asks the process for is stopped when it is cancelled, but for the request that runs."""

    async def _interruptible(self, work: Coroutine[Any, Any, Mapping[str, Array]]) -> Mapping[str, Array]:
        task = asyncio.ensure_future(work)
        with self._interrupting:
            self._running[get_ident()] = asyncio.get_running_loop(), task
        try:
            return await task
        finally:
            with self._interrupting:
                del self._running[get_ident()]

    async def _tokens(self, tensor: str, index: int, text: str) -> list[int]:
        """The tokens of one input.

        Raises:
            TensorError: TENSOR_ELEMENT_INVALID (INVALID_ARGUMENT): it has none.
            ModelError: CONTEXT_LENGTH_EXCEEDED (INVALID_ARGUMENT).
        """
        await self._tokenizer.require_short(f"element {index} of input '{tensor}'", text)
        tokens = await self._tokenizer.text(text, begins=True)
        if not text or not tokens:
            raise _element_invalid(tensor, index, "is empty")
        self._require_room(tensor, index, len(tokens))
        return tokens

    def _given_tokens(self, tensor: str, rows: Array) -> list[list[int]]:
        """The tokens of inputs that come as such: a row each, whose end may be padded with -1.

        Raises:
            TensorError: TENSOR_BATCH_TOO_LARGE (INVALID_ARGUMENT); TENSOR_ELEMENT_INVALID (INVALID_ARGUMENT): a row is
                empty, or has a token that is not in the vocabulary.
            ModelError: CONTEXT_LENGTH_EXCEEDED (INVALID_ARGUMENT).
        """
        _require_few(tensor, len(rows))
        prompts: list[list[int]] = []
        for index, row in enumerate(rows):
            used = np.flatnonzero(row != -1)
            tokens = row[: used[-1] + 1 if used.size else 0]
            if not tokens.size:
                raise _element_invalid(tensor, index, "is empty", datatype="INT64")
            self._require_room(tensor, index, tokens.size)
            if tokens.min() < 0 or tokens.max() >= self._vocabulary_size:
                why = f"has a token that is none of the model's, which are 0 to {self._vocabulary_size - 1}"
                raise _element_invalid(tensor, index, why, datatype="INT64")
            prompts.append(tokens.tolist())
        return prompts

    def _require_room(self, tensor: str, index: int, tokens: int) -> None:
        if tokens > self._context_length:
            raise ModelError(
                f"element {index} of input '{tensor}' has {tokens} tokens, the model takes {self._context_length}",
                entry=catalogue.CONTEXT_LENGTH_EXCEEDED,
                context={"actual": tokens, "limit": self._context_length},
            )


def texts_of(tensor: str, array: Array) -> list[str]:
    """The elements of a BYTES tensor.

    Raises:
        TensorError: TENSOR_BATCH_TOO_LARGE (INVALID_ARGUMENT): they are more than one call may have.
            TENSOR_ELEMENT_INVALID (INVALID_ARGUMENT): one is not UTF-8.
    """
    _require_few(tensor, array.size)
    texts: list[str] = []
    for index, element in enumerate(np.ravel(array)):
        try:
            texts.append(element.decode() if isinstance(element, bytes) else str(element))
        except UnicodeDecodeError:
            raise _element_invalid(tensor, index, "is not UTF-8") from None
    return texts


def _require_few(tensor: str, count: int) -> None:
    if count > TEXTS_MAX:
        raise TensorError(
            f"input '{tensor}' has {count} texts, a call may have {TEXTS_MAX}",
            entry=catalogue.TENSOR_BATCH_TOO_LARGE,
            context={"limit": TEXTS_MAX, "actual": count},
        )


def _element_invalid(tensor: str, index: int, why: str, *, datatype: str = "BYTES") -> TensorError:
    return TensorError(
        f"element {index} of input '{tensor}' {why}",
        entry=catalogue.TENSOR_ELEMENT_INVALID,
        context={"tensor": tensor, "datatype": datatype},
    )


def _failed() -> ModelError:
    return ModelError("the model failed while it computed this request", entry=catalogue.MODEL_EXECUTION_FAILED)
