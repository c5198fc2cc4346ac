-- The keys for a gateway that starts: those that work, and those that stopped working lately, so that the gateway can
-- tell their holders why. Older ones are left out, or dead keys would fill every gateway's memory.
SELECT id AS key_id, tenant_id, key_sha256, roles, expires_at, revoked_at, policies
FROM quota.api_keys
WHERE (revoked_at IS NULL OR revoked_at > now() - make_interval(secs => %(dead_keys_shown_s)s))
    AND (expires_at IS NULL OR expires_at > now() - make_interval(secs => %(dead_keys_shown_s)s))
