-- Revokes a key for good; no row when it was revoked before, and its time stays.
UPDATE quota.api_keys
SET revoked_at = now()
WHERE id = %(id)s AND revoked_at IS NULL
RETURNING tenant_id, id, display_name, prefix, key_sha256, roles, created_at, expires_at, revoked_at,
    policies, last_used_at, rotated_from::text AS rotated_from
