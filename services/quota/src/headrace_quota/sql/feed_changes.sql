-- The changes after a revision in order, each with the present state of what changed. A later state shown at an
-- earlier revision does no harm: the later change follows and says the same.
SELECT
    change.revision,
    tenant.id AS tenant_id,
    tenant.status AS tenant_status,
    tenant.tier AS tenant_tier,
    CASE WHEN key.id IS NULL THEN quota.limits_of(tenant.id) END AS tenant_limits,
    coalesce(plan.aggregate_streams, false) AS tenant_aggregate_streams,
    tenant.metadata AS tenant_metadata,
    tenant.isolation AS tenant_isolation,
    key.id AS key_id,
    key.key_sha256,
    key.roles,
    key.expires_at,
    key.revoked_at,
    key.policies
FROM quota.principal_changes AS change
JOIN quota.tenants AS tenant ON tenant.id = change.tenant_id
LEFT JOIN quota.plans AS plan ON plan.name = tenant.tier
LEFT JOIN quota.api_keys AS key ON key.id = change.key_id
WHERE change.revision > %(after_revision)s
ORDER BY change.revision
LIMIT %(limit)s
