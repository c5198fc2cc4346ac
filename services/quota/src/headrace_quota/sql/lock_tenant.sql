-- The tenant, locked: concurrent creations of keys wait here, so that counting them stays true, and other changes of
-- the tenant wait too.
SELECT id, display_name, status, tier, metadata, isolation, created_at, updated_at
FROM quota.tenants
WHERE id = %(id)s
FOR NO KEY UPDATE
