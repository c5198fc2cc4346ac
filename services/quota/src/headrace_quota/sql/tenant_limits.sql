-- A tenant's plan and the limits that hold for it, if the scope may see it.
SELECT tenant.tier AS plan, quota.limits_of(tenant.id) AS limits
FROM quota.tenants AS tenant
WHERE tenant.id = %(tenant_id)s
