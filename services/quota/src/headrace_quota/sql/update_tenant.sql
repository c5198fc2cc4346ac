-- The tenant with new values in the fields that operators may change.
UPDATE quota.tenants
SET display_name = %(display_name)s, tier = %(tier)s, metadata = %(metadata)s, isolation = %(isolation)s
WHERE id = %(id)s
RETURNING id, display_name, status, tier, metadata, isolation, created_at, updated_at
