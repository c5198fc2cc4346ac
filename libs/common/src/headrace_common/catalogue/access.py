"""Who may call: quota, credentials, tenants."""

from __future__ import annotations

from headrace_common.catalogue.entry import LATER, SOON, CatalogueEntry

QUOTA_EXCEEDED = CatalogueEntry(
    code="QUOTA_001",
    reason="QUOTA_EXCEEDED",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    retry=LATER,
    context=("quotaType", "currentUsage", "limit", "window"),
    summary="The tenant has used up a quota of its plan.",
    remedy="Wait until the window renews (see the retry delay), or ask for a higher quota.",
)
RATE_LIMIT_EXCEEDED = CatalogueEntry(
    code="QUOTA_002",
    reason="RATE_LIMIT_EXCEEDED",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    retry=SOON,
    context=("quotaType", "currentUsage", "limit", "window"),
    summary="The tenant uses more of a rate than its plan allows.",
    remedy="Slow down; retry after the hinted delay.",
)
CONCURRENCY_LIMIT_EXCEEDED = CatalogueEntry(
    code="QUOTA_003",
    reason="CONCURRENCY_LIMIT_EXCEEDED",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    retry=SOON,
    context=("quotaType", "currentUsage", "limit", "window"),
    summary="The tenant has as many requests in flight as its plan allows.",
    remedy="Wait for a request to finish, then retry.",
)
QUOTA_UNAVAILABLE = CatalogueEntry(
    code="QUOTA_004",
    reason="QUOTA_UNAVAILABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="The quota service can't be reached and no share was agreed for that case.",
    remedy="Retry; operators: look at the quota service.",
)
PLAN_NOT_FOUND = CatalogueEntry(
    code="QUOTA_005",
    reason="PLAN_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    context=("plan",),
    summary="No such plan is visible to the caller.",
    remedy="Check the plan's name; operators can list all plans.",
)
PLAN_IN_USE = CatalogueEntry(
    code="QUOTA_006",
    reason="PLAN_IN_USE",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("plan",),
    summary="Tenants are on the plan.",
    remedy="Move its tenants to another plan first.",
)
CREDENTIAL_MISSING = CatalogueEntry(
    code="AUTH_001",
    reason="CREDENTIAL_MISSING",
    grpc="UNAUTHENTICATED",
    http=401,
    summary="The call carries no credential.",
    remedy="Send an API key as x-api-key, or as authorization: Bearer.",
)
CREDENTIAL_UNKNOWN = CatalogueEntry(
    code="AUTH_002",
    reason="CREDENTIAL_UNKNOWN",
    grpc="UNAUTHENTICATED",
    http=401,
    summary="The API key isn't known here.",
    remedy="Check the key; ask your administrator for a new one.",
)
KEY_REVOKED = CatalogueEntry(
    code="AUTH_003",
    reason="KEY_REVOKED",
    grpc="UNAUTHENTICATED",
    http=401,
    context=("key_id",),
    summary="The API key was revoked.",
    remedy="Use another key.",
)
KEY_EXPIRED = CatalogueEntry(
    code="AUTH_004",
    reason="KEY_EXPIRED",
    grpc="UNAUTHENTICATED",
    http=401,
    context=("key_id",),
    summary="The API key's lifetime is over.",
    remedy="Use another key.",
)
ROLE_FORBIDDEN = CatalogueEntry(
    code="AUTH_005",
    reason="ROLE_FORBIDDEN",
    grpc="PERMISSION_DENIED",
    http=403,
    context=("required",),
    summary="The caller's roles don't allow this method.",
    remedy="Use a key that has the required role.",
)
TOKEN_INVALID = CatalogueEntry(
    code="AUTH_006",
    reason="TOKEN_INVALID",
    grpc="UNAUTHENTICATED",
    http=401,
    summary="A signed token is malformed, unsigned, or signed by an unknown key.",
    remedy="Get a new token from its issuer.",
)
TOKEN_EXPIRED = CatalogueEntry(
    code="AUTH_007",
    reason="TOKEN_EXPIRED",
    grpc="UNAUTHENTICATED",
    http=401,
    summary="A signed token's lifetime is over.",
    remedy="Get a new token from its issuer; check the clocks.",
)
TOKEN_AUDIENCE_MISMATCH = CatalogueEntry(
    code="AUTH_008",
    reason="TOKEN_AUDIENCE_MISMATCH",
    grpc="UNAUTHENTICATED",
    http=401,
    context=("audience",),
    summary="A signed token was made for another service.",
    remedy="Get a token for this service.",
)
METHOD_FORBIDDEN = CatalogueEntry(
    code="AUTH_009",
    reason="METHOD_FORBIDDEN",
    grpc="PERMISSION_DENIED",
    http=403,
    context=("method",),
    summary="No policy allows this method on this listener.",
    remedy="Call it where it is served, or not at all.",
)
JOIN_TOKEN_INVALID = CatalogueEntry(
    code="AUTH_010",
    reason="JOIN_TOKEN_INVALID",
    grpc="UNAUTHENTICATED",
    http=401,
    summary="A runner presented no join token or runner's certificate, or one that doesn't hold (any more).",
    remedy="Give the runner a token of `headrace runners token create`, or a certificate of the mesh.",
)
TICKET_INVALID = CatalogueEntry(
    code="AUTH_011",
    reason="TICKET_INVALID",
    grpc="UNAUTHENTICATED",
    http=401,
    summary="A download ticket is wrong, expired, or for another artefact.",
    remedy="Ask for the load again; the gateway issues a new ticket.",
)
CREDENTIAL_MALFORMED = CatalogueEntry(
    code="AUTH_012",
    reason="CREDENTIAL_MALFORMED",
    grpc="UNAUTHENTICATED",
    http=401,
    summary="The credential doesn't have the form of one.",
    remedy="Send the key exactly as it was shown once.",
)
AUTHORITY_FORBIDDEN = CatalogueEntry(
    code="AUTH_013",
    reason="AUTHORITY_FORBIDDEN",
    grpc="PERMISSION_DENIED",
    http=403,
    context=("authority",),
    summary="The call names a host that this listener doesn't answer for.",
    remedy="Call the mesh by its loopback address.",
)
CREDENTIALS_NOT_READY = CatalogueEntry(
    code="AUTH_014",
    reason="CREDENTIALS_NOT_READY",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="This gateway hasn't received the key table yet.",
    remedy="Retry after the hinted delay.",
)
TENANT_MISMATCH = CatalogueEntry(
    code="AUTH_015",
    reason="TENANT_MISMATCH",
    grpc="PERMISSION_DENIED",
    http=403,
    summary="The call names another tenant in x-tenant-id than the one that its credential belongs to.",
    remedy="Use a credential of that tenant, or leave the header out.",
)
POLICY_FORBIDDEN = CatalogueEntry(
    code="AUTH_016",
    reason="POLICY_FORBIDDEN",
    grpc="PERMISSION_DENIED",
    http=403,
    context=("action", "model"),
    summary="The policies of the caller's key don't allow this with this model.",
    remedy="Use a key whose policies allow it.",
)
JOIN_FORBIDDEN = CatalogueEntry(
    code="AUTH_017",
    reason="JOIN_FORBIDDEN",
    grpc="PERMISSION_DENIED",
    http=403,
    context=("claim",),
    summary="A runner claims a name or a tenant that its join token or certificate is not for.",
    remedy="Correct HEADRACE_RUNNER_NAME or HEADRACE_RUNNER_LABELS, or make a token or certificate for that tenant.",
)
TENANT_NOT_FOUND = CatalogueEntry(
    code="TENANT_001",
    reason="TENANT_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    context=("tenant",),
    summary="No such tenant is visible to the caller.",
    remedy="Check the tenant's id.",
)
TENANT_SUSPENDED = CatalogueEntry(
    code="TENANT_002",
    reason="TENANT_SUSPENDED",
    grpc="PERMISSION_DENIED",
    http=403,
    context=("tenant",),
    summary="The tenant is suspended.",
    remedy="Ask the operator.",
)
TENANT_ALREADY_EXISTS = CatalogueEntry(
    code="TENANT_003",
    reason="TENANT_ALREADY_EXISTS",
    grpc="ALREADY_EXISTS",
    http=409,
    context=("tenant",),
    summary="A tenant of this id exists.",
    remedy="Choose another id.",
)
TENANT_ID_INVALID = CatalogueEntry(
    code="TENANT_004",
    reason="TENANT_ID_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("tenant",),
    summary="The id doesn't follow the grammar of tenant ids.",
    remedy="Use 2 to 63 lower-case letters, digits or dashes, a letter first.",
)
KEY_NOT_FOUND = CatalogueEntry(
    code="TENANT_005",
    reason="KEY_NOT_FOUND",
    grpc="NOT_FOUND",
    http=404,
    context=("key_id",),
    summary="No such API key is visible to the caller.",
    remedy="List the keys of the tenant.",
)
TENANT_PROTECTED = CatalogueEntry(
    code="TENANT_006",
    reason="TENANT_PROTECTED",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("tenant",),
    summary="The tenant is one that the mesh itself needs.",
    remedy="Leave it as it is.",
)
KEY_LIMIT_REACHED = CatalogueEntry(
    code="TENANT_007",
    reason="KEY_LIMIT_REACHED",
    grpc="RESOURCE_EXHAUSTED",
    http=429,
    context=("tenant", "limit"),
    summary="The tenant has as many active keys as it may have.",
    remedy="Revoke a key first.",
)
FEATURE_DISABLED = CatalogueEntry(
    code="TENANT_008",
    reason="FEATURE_DISABLED",
    grpc="PERMISSION_DENIED",
    http=403,
    context=("tenant", "feature"),
    summary="The operator has switched this feature off for the tenant.",
    remedy="Ask the operator to switch it on.",
)
FEATURE_UNKNOWN = CatalogueEntry(
    code="TENANT_009",
    reason="FEATURE_UNKNOWN",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field", "features"),
    summary="A pair of a tenant's metadata switches a feature that doesn't exist.",
    remedy="Use one of the features that the failure names.",
)
KEY_ENDED = CatalogueEntry(
    code="TENANT_010",
    reason="KEY_ENDED",
    grpc="FAILED_PRECONDITION",
    http=409,
    context=("key_id",),
    summary="The API key that another one was to follow is revoked or has expired.",
    remedy="Make a new key.",
)
