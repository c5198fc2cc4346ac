-- A page of a chain, newest first.
SELECT *
FROM quota.audit_log
WHERE tenant_id = %(tenant_id)s
    AND (%(position)s = 0 OR sequence < %(position)s)
    AND (%(method)s = '' OR method = %(method)s)
    AND (%(actor)s = '' OR actor = %(actor)s)
ORDER BY sequence DESC
LIMIT %(limit)s
