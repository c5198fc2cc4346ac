-- A page of tenants in the order of their ids' bytes, by tenants_pkey.
SELECT id, display_name, status, tier, metadata, isolation, created_at, updated_at
FROM quota.tenants
WHERE id > %(after_id)s
ORDER BY id
LIMIT %(limit)s
