"""Language models."""

from __future__ import annotations

from headrace_common.catalogue.entry import SOON, CatalogueEntry

MODEL_TASK_MISMATCH = CatalogueEntry(
    code="MODEL_022",
    reason="MODEL_TASK_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("model", "task"),
    summary="The model doesn't do what the method is for, for example generate text.",
    remedy="Use Generate or ModelStreamInfer for models that generate, and inference for all others.",
)
CONTEXT_LENGTH_EXCEEDED = CatalogueEntry(
    code="MODEL_023",
    reason="CONTEXT_LENGTH_EXCEEDED",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("model", "actual", "limit"),
    summary="The prompt has more tokens than the model's context has room for.",
    remedy="Shorten the prompt, or serve the model with a larger `language.context_length`.",
)
CHAT_TEMPLATE_FAILED = CatalogueEntry(
    code="MODEL_024",
    reason="CHAT_TEMPLATE_FAILED",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("model",),
    summary="The model has no chat template, or its template refuses the conversation.",
    remedy="Check the order of the roles, send plain text, or give the version a `language.chat_template`.",
)
GENERATION_INTERRUPTED = CatalogueEntry(
    code="RUNNER_013",
    reason="GENERATION_INTERRUPTED",
    grpc="ABORTED",
    http=500,
    context=("model", "cause"),
    summary="The runner was lost while it generated, or the server stopped, and nobody could go on with the text.",
    remedy="Ask again from the beginning, or with what was received as part of the prompt.",
)
MODEL_PROCESS_LOST = CatalogueEntry(
    code="RUNNER_014",
    reason="MODEL_PROCESS_LOST",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("model",),
    summary="The process that computes the model ended; it is being started again.",
    remedy="Retry.",
)
CONSTRAINT_INVALID = CatalogueEntry(
    code="VALIDATION_012",
    reason="CONSTRAINT_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field",),
    summary="The JSON schema or grammar for the output can't be used.",
    remedy="Correct the named field; the documentation lists what schemas may have.",
)
