"""Models and their versions."""

from __future__ import annotations

from headrace_common.catalogue.entry import SOON, CatalogueEntry

MODEL_NOT_FOUND = CatalogueEntry(
    code="MODEL_001",
    reason="MODEL_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    context=("model",),
    summary="No model of this name is visible to the caller.",
    remedy="Check the name and the tenant of the key; list the models you can see.",
)
MODEL_VERSION_NOT_FOUND = CatalogueEntry(
    code="MODEL_002",
    reason="MODEL_VERSION_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    context=("model", "version"),
    summary="The model exists but has no such version, or no version that is ready.",
    remedy="List the versions, or leave the version empty for the newest ready one.",
)
MODEL_ALREADY_EXISTS = CatalogueEntry(
    code="MODEL_003",
    reason="MODEL_ALREADY_EXISTS",
    grpc="ALREADY_EXISTS",
    http=409,
    context=("model",),
    summary="A model of this name exists in the tenant.",
    remedy="Upload a new version of it, or choose another name.",
)
MODEL_VERSION_CONFLICT = CatalogueEntry(
    code="MODEL_004",
    reason="MODEL_VERSION_CONFLICT",
    grpc="ALREADY_EXISTS",
    http=409,
    context=("model", "version"),
    summary="The version exists with other bytes or another manifest; versions never change.",
    remedy="Upload under a new version number.",
)
MODEL_VERSION_ARCHIVED = CatalogueEntry(
    code="MODEL_005",
    reason="MODEL_VERSION_ARCHIVED",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("model", "version"),
    summary="The version is archived and can't be served or changed.",
    remedy="Use another version.",
)
MODEL_VERSION_NOT_READY = CatalogueEntry(
    code="MODEL_006",
    reason="MODEL_VERSION_NOT_READY",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("model", "version"),
    summary="The version isn't ready to be served yet.",
    remedy="Wait until its status is READY.",
)
MODEL_LOAD_FAILED = CatalogueEntry(
    code="MODEL_007",
    reason="MODEL_LOAD_FAILED",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("model", "version"),
    summary="Runners tried to load the version and couldn't.",
    remedy="Look at the version's load error; upload a corrected version.",
)
MODEL_LOADING = CatalogueEntry(
    code="MODEL_008",
    reason="MODEL_LOADING",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("model", "version"),
    summary="The model is being loaded by a runner.",
    remedy="Retry after the hinted delay.",
)
MODEL_FORMAT_UNSUPPORTED = CatalogueEntry(
    code="MODEL_009",
    reason="MODEL_FORMAT_UNSUPPORTED",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("format",),
    summary="The file's format, or the platform named for it, isn't one that this mesh serves.",
    remedy="Upload one of the supported formats.",
)
MODEL_FILE_INVALID = CatalogueEntry(
    code="MODEL_010",
    reason="MODEL_FILE_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("file",),
    summary="The uploaded file isn't a valid model of its format.",
    remedy="Check the file with its own framework, then upload it again.",
)
MODEL_FILE_DIGEST_MISMATCH = CatalogueEntry(
    code="MODEL_011",
    reason="MODEL_FILE_DIGEST_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("file", "expected", "actual"),
    summary="The SHA-256 of the received bytes differs from the announced one.",
    remedy="Compute the digest again and repeat the upload.",
)
MODEL_FILE_SIZE_MISMATCH = CatalogueEntry(
    code="MODEL_012",
    reason="MODEL_FILE_SIZE_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("file", "expected", "actual"),
    summary="The upload ended with fewer, or ran on with more, bytes than it announced.",
    remedy="Repeat the upload with the right size.",
)
MODEL_FILE_TOO_LARGE = CatalogueEntry(
    code="MODEL_013",
    reason="MODEL_FILE_TOO_LARGE",
    grpc="RESOURCE_EXHAUSTED",
    http=413,
    context=("limit",),
    summary="The file is larger than the registry accepts.",
    remedy="Make the model smaller, or ask the operator to raise the limit.",
)
MODEL_MANIFEST_INVALID = CatalogueEntry(
    code="MODEL_014",
    reason="MODEL_MANIFEST_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field",),
    summary="The manifest has a field that can't be right.",
    remedy="Correct the named field of the manifest.",
)
MODEL_MANIFEST_MISMATCH = CatalogueEntry(
    code="MODEL_015",
    reason="MODEL_MANIFEST_MISMATCH",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field",),
    summary="The manifest contradicts what the model file itself says.",
    remedy="Correct the named field, or leave it out so that it is inferred.",
)
MODEL_NAME_INVALID = CatalogueEntry(
    code="MODEL_016",
    reason="MODEL_NAME_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("model",),
    summary="The name doesn't follow the grammar of model names.",
    remedy="Use 1 to 128 letters, digits, dots, dashes or underscores, a letter or digit first.",
)
MODEL_VERSION_INVALID = CatalogueEntry(
    code="MODEL_017",
    reason="MODEL_VERSION_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("version",),
    summary="The version isn't a positive whole number.",
    remedy="Use 1, 2, 3, …",
)
MODEL_EXECUTION_FAILED = CatalogueEntry(
    code="MODEL_018",
    reason="MODEL_EXECUTION_FAILED",
    grpc="INTERNAL",
    http=500,
    context=("model", "version"),
    summary="The model itself failed while it computed this request.",
    remedy="Check the values of the inputs against what the model expects.",
)
MODEL_TOO_LARGE_TO_LOAD = CatalogueEntry(
    code="MODEL_019",
    reason="MODEL_TOO_LARGE_TO_LOAD",
    grpc="RESOURCE_EXHAUSTED",
    http=507,
    context=("model", "version"),
    summary="No runner has enough memory for the model.",
    remedy="Add a runner with more memory, or make the model smaller.",
)
MODEL_INSPECTION_LIMIT = CatalogueEntry(
    code="MODEL_020",
    reason="MODEL_INSPECTION_LIMIT",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("file", "limit"),
    summary="The file took more time or memory to inspect than is allowed.",
    remedy="Send a manifest that states the signature, or make the model smaller.",
)
MODEL_FILE_NOT_FOUND = CatalogueEntry(
    code="MODEL_021",
    reason="MODEL_FILE_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    context=("model", "version"),
    summary="The version has no file at this path.",
    remedy="Look at the version's files.",
)
