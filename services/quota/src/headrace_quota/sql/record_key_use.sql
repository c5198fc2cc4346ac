-- The latest use of a key.
SELECT quota.record_key_use(%(tenant_id)s, %(key_id)s, %(used_at)s)
