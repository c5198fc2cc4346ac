"""Raw input of a model: pictures and texts that a runner makes tensors of."""

from __future__ import annotations

from headrace_common.catalogue.entry import CatalogueEntry

IMAGE_INVALID = CatalogueEntry(
    code="TENSOR_017",
    reason="IMAGE_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "element"),
    summary="An element is not a whole picture of a format that is taken, or it is too small for the model.",
    remedy="Send PNG, JPEG or WebP files as they are, each one element; the message names the one at fault.",
)
IMAGE_TOO_LARGE = CatalogueEntry(
    code="TENSOR_018",
    reason="IMAGE_TOO_LARGE",
    grpc="RESOURCE_EXHAUSTED",
    http=413,
    context=("tensor", "element", "limit", "actual"),
    summary="A picture has more bytes or pixels than the model takes.",
    remedy="Send a smaller picture, or serve the model with a larger `processing.image` limit.",
)
TEXT_TOO_LONG = CatalogueEntry(
    code="TENSOR_019",
    reason="TEXT_TOO_LONG",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "element", "limit", "actual"),
    summary="A text has more bytes or tokens than the model takes.",
    remedy="Send a shorter text, or serve the model with `processing.text.truncate` or a larger limit.",
)
PROCESSED_INPUT_CONFLICT = CatalogueEntry(
    code="TENSOR_020",
    reason="PROCESSED_INPUT_CONFLICT",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor",),
    summary="The request has both raw input and a tensor that is made of it.",
    remedy="Send the raw input alone, or the model's own tensors alone.",
)
