-- All tenants, for a gateway that starts.
SELECT
    id AS tenant_id,
    status AS tenant_status,
    tier AS tenant_tier,
    metadata AS tenant_metadata,
    isolation AS tenant_isolation
FROM quota.tenants
ORDER BY id
