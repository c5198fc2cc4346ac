"""Tensors of an inference request."""

from __future__ import annotations

from headrace_common.catalogue.entry import CatalogueEntry

TENSOR_SHAPE_MISMATCH = CatalogueEntry(
    code="TENSOR_001",
    reason="TENSOR_SHAPE_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "expected", "actual"),
    summary="A tensor's shape doesn't fit the model's signature.",
    remedy="Send the shape that the model's metadata states; -1 there means any size.",
)
TENSOR_NAME_UNKNOWN = CatalogueEntry(
    code="TENSOR_002",
    reason="TENSOR_NAME_UNKNOWN",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor",),
    summary="The request carries a tensor that the model doesn't have.",
    remedy="Use the input names of the model's metadata.",
)
TENSOR_MISSING = CatalogueEntry(
    code="TENSOR_003",
    reason="TENSOR_MISSING",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor",),
    summary="The request lacks an input that the model requires.",
    remedy="Send every input of the model's metadata.",
)
TENSOR_DATATYPE_MISMATCH = CatalogueEntry(
    code="TENSOR_004",
    reason="TENSOR_DATATYPE_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "expected", "actual"),
    summary="A tensor's datatype differs from the signature's.",
    remedy="Convert the tensor to the datatype that the model's metadata states.",
)
TENSOR_DATATYPE_UNSUPPORTED = CatalogueEntry(
    code="TENSOR_005",
    reason="TENSOR_DATATYPE_UNSUPPORTED",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "datatype"),
    summary="The datatype isn't one of the Open Inference Protocol's.",
    remedy="Use a datatype of the protocol, such as FP32 or INT64.",
)
TENSOR_BYTES_MISMATCH = CatalogueEntry(
    code="TENSOR_006",
    reason="TENSOR_BYTES_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "expected", "actual"),
    summary="The number of bytes or elements doesn't equal shape times datatype.",
    remedy="Send exactly as many bytes as the shape and the datatype say.",
)
TENSOR_CONTENT_CONFLICT = CatalogueEntry(
    code="TENSOR_007",
    reason="TENSOR_CONTENT_CONFLICT",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor",),
    summary="The request uses both typed contents and raw contents.",
    remedy="Use one of the two forms for all tensors of a request.",
)
TENSOR_CONTENT_MISSING = CatalogueEntry(
    code="TENSOR_008",
    reason="TENSOR_CONTENT_MISSING",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor",),
    summary="A tensor carries no content in either form.",
    remedy="Send typed contents or raw contents for each tensor.",
)
TENSOR_DUPLICATED = CatalogueEntry(
    code="TENSOR_009",
    reason="TENSOR_DUPLICATED",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor",),
    summary="Two tensors of one request have the same name.",
    remedy="Send each tensor once.",
)
TENSOR_RAW_COUNT_MISMATCH = CatalogueEntry(
    code="TENSOR_010",
    reason="TENSOR_RAW_COUNT_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("expected", "actual"),
    summary="The number of raw contents differs from the number of inputs.",
    remedy="Send one raw content per input, in the same order.",
)
TENSOR_OUTPUT_UNKNOWN = CatalogueEntry(
    code="TENSOR_011",
    reason="TENSOR_OUTPUT_UNKNOWN",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor",),
    summary="The request asks for an output that the model doesn't have.",
    remedy="Ask for outputs of the model's metadata, or for none to get them all.",
)
TENSOR_STRING_MALFORMED = CatalogueEntry(
    code="TENSOR_012",
    reason="TENSOR_STRING_MALFORMED",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor",),
    summary="A BYTES tensor's length prefixes don't add up to its bytes.",
    remedy="Precede each element by its length as 4 bytes, little-endian.",
)
TENSOR_DIMENSION_INVALID = CatalogueEntry(
    code="TENSOR_013",
    reason="TENSOR_DIMENSION_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "dimension"),
    summary="A dimension is negative or the shape's product is out of range.",
    remedy="Send the tensor's real, non-negative dimensions.",
)
TENSOR_BATCH_TOO_LARGE = CatalogueEntry(
    code="TENSOR_014",
    reason="TENSOR_BATCH_TOO_LARGE",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("limit", "actual"),
    summary="The request has more rows than the model takes in one batch.",
    remedy="Split the request.",
)
TENSOR_CONTENT_TYPE_MISMATCH = CatalogueEntry(
    code="TENSOR_015",
    reason="TENSOR_CONTENT_TYPE_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "datatype"),
    summary="The typed contents are in another field than the datatype's.",
    remedy="Put the values in the contents field that belongs to the datatype.",
)
TENSOR_ELEMENT_INVALID = CatalogueEntry(
    code="TENSOR_016",
    reason="TENSOR_ELEMENT_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tensor", "datatype"),
    summary="An element isn't a value that the tensor's datatype, or the model's backend, can take.",
    remedy="Keep elements within the datatype's range; text for an ONNX model must be UTF-8.",
)
