-- All tenants, for a gateway that starts.
SELECT id AS tenant_id, status AS tenant_status, tier AS tenant_tier
FROM quota.tenants
ORDER BY id
