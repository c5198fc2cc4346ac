-- A page of what happened to runners, newest first. A runner's id is its name, a dot and the UUID of its process; a
-- name stands for all processes that had it.
SELECT id, runner_id, gateway_id, event, device_type, detail, event_at
FROM quota.runner_health
WHERE event_at >= %(start_time)s
    AND (
        %(runner_id)s = '' OR runner_id = %(runner_id)s
        OR (starts_with(runner_id, %(runner_id)s || '.') AND length(runner_id) = length(%(runner_id)s) + 37)
    )
    AND (%(after_time)s::timestamptz IS NULL OR (event_at, id) < (%(after_time)s, %(after_id)s::bigint))
ORDER BY event_at DESC, id DESC
LIMIT %(limit)s
