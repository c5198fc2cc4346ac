-- How many keys of the tenant work now.
SELECT count(*) AS active
FROM quota.api_keys
WHERE tenant_id = %(tenant_id)s
    AND revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > now())
