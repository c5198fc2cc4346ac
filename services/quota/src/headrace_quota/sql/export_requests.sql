-- The next rows of a tenant's ledger, oldest first.
SELECT *
FROM quota.inference_requests
WHERE tenant_id = %(tenant_id)s
    AND admitted_at >= %(start_time)s
    AND admitted_at < %(end_time)s
    AND (%(after_time)s::timestamptz IS NULL OR (admitted_at, id) > (%(after_time)s, %(after_id)s::uuid))
ORDER BY admitted_at, id
LIMIT %(limit)s
