-- Stores a key by its digest. A digest that exists already makes no row; the caller asks whose it is.
INSERT INTO quota.api_keys (
    tenant_id, id, display_name, prefix, key_sha256, roles, expires_at, policies, rotated_from
)
VALUES (
    %(tenant_id)s, %(id)s, %(display_name)s, %(prefix)s, %(sha256)s, %(roles)s, %(expire_time)s,
    %(policies)s, %(rotated_from)s
)
ON CONFLICT (key_sha256) DO NOTHING
RETURNING tenant_id, id, display_name, prefix, key_sha256, roles, created_at, expires_at, revoked_at,
    policies, last_used_at, rotated_from::text AS rotated_from
