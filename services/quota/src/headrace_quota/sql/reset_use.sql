-- Sets counters of the windows of an instant to nothing: those that are there, and those of limits that hold, which
-- would otherwise begin with what the ledger says.
WITH meant AS (
    SELECT holds.model, holds.resource, holds.time_window
    FROM quota.effective_limits AS holds
    WHERE holds.tenant_id = %(tenant_id)s AND holds.time_window IN ('HOUR', 'DAY', 'MONTH')
    UNION
    SELECT counter.model, counter.resource, counter.time_window
    FROM quota.quota_counters AS counter
    WHERE counter.tenant_id = %(tenant_id)s AND counter.window_start = quota.window_start(counter.time_window, %(at)s)
)
INSERT INTO quota.quota_counters (tenant_id, model, resource, time_window, window_start, window_end, used)
SELECT
    %(tenant_id)s, model, resource, time_window,
    quota.window_start(time_window, %(at)s), quota.window_end(time_window, %(at)s), 0
FROM meant
WHERE (%(model)s = '' OR model = %(model)s)
    AND resource = coalesce(%(resource)s, resource)
    AND time_window = coalesce(%(time_window)s, time_window)
ORDER BY resource, model, time_window
ON CONFLICT ON CONSTRAINT quota_counters_pkey DO UPDATE SET used = 0
