-- A page of what happened to runners, newest first.
SELECT id, runner_id, gateway_id, event, device_type, detail, event_at
FROM quota.runner_health
WHERE event_at >= %(start_time)s
    AND (%(runner_id)s = '' OR runner_id = %(runner_id)s)
    AND (%(after_time)s::timestamptz IS NULL OR (event_at, id) < (%(after_time)s, %(after_id)s::bigint))
ORDER BY event_at DESC, id DESC
LIMIT %(limit)s
