-- A plan, locked, and whether a tenant is on it.
SELECT EXISTS (SELECT FROM quota.tenants AS tenant WHERE tenant.tier = plan.name) AS in_use
FROM quota.plans AS plan
WHERE plan.name = %(name)s
FOR UPDATE OF plan
