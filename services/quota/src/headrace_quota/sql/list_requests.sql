-- A page of a tenant's ledger, newest first.
SELECT *
FROM quota.inference_requests
WHERE tenant_id = %(tenant_id)s
    AND admitted_at >= %(start_time)s
    AND admitted_at < %(end_time)s
    AND (%(after_time)s::timestamptz IS NULL OR (admitted_at, id) < (%(after_time)s, %(after_id)s::uuid))
    AND (%(model)s = '' OR model = %(model)s)
    AND (%(status)s = '' OR status = %(status)s)
    AND (%(request_id)s = '' OR request_id = %(request_id)s)
    AND (%(subject)s = '' OR subject = %(subject)s)
ORDER BY admitted_at DESC, id DESC
LIMIT %(limit)s
