-- A page of a chain, oldest first.
SELECT *
FROM quota.audit_log
WHERE tenant_id = %(tenant_id)s
    AND sequence > %(position)s
    AND (%(method)s = '' OR method = %(method)s)
    AND (%(actor)s = '' OR actor = %(actor)s)
ORDER BY sequence
LIMIT %(limit)s
