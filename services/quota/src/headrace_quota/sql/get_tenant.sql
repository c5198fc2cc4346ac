-- One tenant, if the scope may see it.
SELECT id, display_name, status, tier, metadata, isolation, created_at, updated_at
FROM quota.tenants
WHERE id = %(id)s
