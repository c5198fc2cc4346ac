"""What is stored: objects, rows, conversions, jobs."""

from __future__ import annotations

from headrace_common.catalogue.entry import LATER, SOON, CatalogueEntry

STORAGE_UNAVAILABLE = CatalogueEntry(
    code="STORAGE_001",
    reason="STORAGE_UNAVAILABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="The object store can't be reached.",
    remedy="Retry; operators: look at the object store.",
)
OBJECT_NOT_FOUND = CatalogueEntry(
    code="STORAGE_002",
    reason="OBJECT_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    summary="A stored object is missing.",
    remedy="Upload the version again; operators: look at the object store.",
)
OBJECT_CORRUPT = CatalogueEntry(
    code="STORAGE_003",
    reason="OBJECT_CORRUPT",
    grpc="DATA_LOSS",
    http=500,
    context=("expected", "actual"),
    summary="A stored object's bytes don't have their digest.",
    remedy="Upload the version again; operators: look at the object store.",
)
STORAGE_DENIED = CatalogueEntry(
    code="STORAGE_004",
    reason="STORAGE_DENIED",
    grpc="INTERNAL",
    http=500,
    summary="The object store refuses the service's credentials.",
    remedy="Operators: check the credentials and the bucket's policy.",
)
STORAGE_FAILED = CatalogueEntry(
    code="STORAGE_005",
    reason="STORAGE_FAILED",
    grpc="INTERNAL",
    http=500,
    summary="The object store failed in a way that a retry won't cure.",
    remedy="Operators: look at the service's log.",
)
DATABASE_UNAVAILABLE = CatalogueEntry(
    code="STORAGE_006",
    reason="DATABASE_UNAVAILABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="The database can't be reached, or has no connection free.",
    remedy="Retry; operators: look at PostgreSQL.",
)
DATABASE_CONFLICT = CatalogueEntry(
    code="STORAGE_007",
    reason="DATABASE_CONFLICT",
    grpc="ABORTED",
    http=409,
    retry=SOON,
    summary="Two transactions got in each other's way; this one was undone.",
    remedy="Retry.",
)
DATABASE_TIMEOUT = CatalogueEntry(
    code="STORAGE_008",
    reason="DATABASE_TIMEOUT",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    context=("limit_s",),
    summary="A statement took longer than it may; it was undone.",
    remedy="Retry; operators: look at PostgreSQL's load.",
)
DATABASE_CONSTRAINT = CatalogueEntry(
    code="STORAGE_009",
    reason="DATABASE_CONSTRAINT",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("constraint",),
    summary="The change contradicts what is stored.",
    remedy="Read the current state, then repeat the call.",
)
DATABASE_FAILED = CatalogueEntry(
    code="STORAGE_010",
    reason="DATABASE_FAILED",
    grpc="INTERNAL",
    http=500,
    summary="The database failed in a way that a retry won't cure.",
    remedy="Operators: look at the service's log.",
)
DISK_FULL = CatalogueEntry(
    code="STORAGE_011",
    reason="DISK_FULL",
    grpc="RESOURCE_EXHAUSTED",
    http=507,
    summary="There is no space left to store this.",
    remedy="Operators: free space or grow the volume.",
)
SPOOL_FULL = CatalogueEntry(
    code="STORAGE_012",
    reason="SPOOL_FULL",
    grpc="UNAVAILABLE",
    http=503,
    retry=LATER,
    summary="The gateway has no room left to write down what calls use, because quota takes nothing.",
    remedy="Retry after the hinted delay; operators: look at the quota service, its database and the spool's disk.",
)
CALL_ABANDONED = CatalogueEntry(
    code="STORAGE_013",
    reason="CALL_ABANDONED",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="The gateway's process ended before the call did; it is charged at its estimate.",
    remedy="Send the call again. Only the ledger shows this reason: nobody was left to answer.",
)
CONVERSION_UNSUPPORTED = CatalogueEntry(
    code="CONVERSION_001",
    reason="CONVERSION_UNSUPPORTED",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("source", "target"),
    summary="There is no conversion between these two formats.",
    remedy="Convert the model yourself and upload the result.",
)
CONVERSION_FAILED = CatalogueEntry(
    code="CONVERSION_002",
    reason="CONVERSION_FAILED",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("source", "target"),
    summary="The converter couldn't convert the model.",
    remedy="Look at the conversion's log.",
)
JOB_NOT_FOUND = CatalogueEntry(
    code="JOB_001",
    reason="JOB_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    context=("job",),
    summary="No such job is visible to the caller.",
    remedy="List the jobs.",
)
JOB_ALREADY_ENDED = CatalogueEntry(
    code="JOB_002",
    reason="JOB_ALREADY_ENDED",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("job",),
    summary="The job has ended and can't be changed.",
    remedy="Submit a new job.",
)
