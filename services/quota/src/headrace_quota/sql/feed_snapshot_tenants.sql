-- All tenants with the limits that hold for them, for a gateway that starts.
SELECT
    tenant.id AS tenant_id,
    tenant.status AS tenant_status,
    tenant.tier AS tenant_tier,
    tenant.metadata AS tenant_metadata,
    tenant.isolation AS tenant_isolation,
    quota.limits_of(tenant.id) AS tenant_limits,
    coalesce(plan.aggregate_streams, false) AS tenant_aggregate_streams
FROM quota.tenants AS tenant
LEFT JOIN quota.plans AS plan ON plan.name = tenant.tier
ORDER BY tenant.id
